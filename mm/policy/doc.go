// Package policy has one file for each fix for "fork against get_user_pages" that
// the linux-mm thread of March 2009 proposed, and for what Linux did later.
//
// A file reads like its patch: a type that embeds mm.Stock and overrides the
// functions that the patch edits. What a patch gets wrong is part of the policy;
// nothing is repaired here. The deciding line of each policy can be taken out by an
// unexported field, for the tests that must see the verdict flip.
//
// To add a policy: write the file, add it to All, run the matrix.
package policy
