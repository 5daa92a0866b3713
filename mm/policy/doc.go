// Package policy has one file for each fix for "fork against get_user_pages" that
// the linux-mm thread of March 2009 proposed, and for what Linux did later.
//
// A file reads like its patch: a type that embeds mm.Stock and overrides the
// functions that the patch edits. What a patch gets wrong is part of the policy;
// nothing is repaired here. The deciding line of each policy can be taken out by an
// unexported field, for the tests that must see the verdict flip.
//
// Two remarks of the thread have no row. PG_locked held over direct I/O (950, 6827) would
// need a hook wherever a bio takes and drops a page; its author says of it that he gave it up,
// and what became of it in 2.4 only kept reclaim away. A count of pins in the anon_vma (9359,
// 9499) is half a sentence that does not say who counts down.
//
// To add a policy: write the file, add it to All, run the matrix.
package policy
