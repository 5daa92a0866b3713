// Package fs is the file layer: open files, block-device files, direct I/O,
// asynchronous I/O, pipes and splicing, as far as they matter to memory management.
//
//	fd table (room kernel) -> File -> Inode -> block device (room blk)
//
//	read, pread, readv ...    Kiocb, synchronous  \                      / direct_io.go
//	io_submit                 Kiocb of a Kioctx   /  AIORead, AIOWrite  <
//	                                                                     \ buffered.go
//
// # Direct I/O
//
// A direct read or write looks the user's pages up, 64 at a time, and hands them to
// the device. What it keeps of the address space afterwards are references on
// physical pages, nothing else. This is the life of one page of it ([DIO], after
// Linux 2.6.29 fs/direct-io.c):
//
//	                             references of direct I/O on the page
//	dio_refill_pages             +1            get_user_pages_fast
//	submit_page_section            +1          it is dio->cur_page: waits to be merged
//	end of the page's loop       -1
//	dio_bio_add_page                 +1        it is in a bio
//	dio_send_cur_page              -1
//	   DMA                               1     whatever happens to the page tables now
//	dio_bio_complete                 -1        on the CPU that takes the interrupt
//
// A page that a request enters in two pieces (an unaligned buffer, a second
// segment) goes through this twice, and between two refills of 64 pages anything
// may happen, a fork included. That is where the race of this project lives.
//
// Who waits for what:
//
//	synchronous    dio_bio_end_io puts the bio on a list and wakes the task, which
//	               dirties the pages (read) and puts them
//	asynchronous   dio_bio_end_aio does everything in the interrupt, ends with
//	               aio_complete. Pages of a read were dirtied at submission; if one
//	               was cleaned meanwhile, a workqueue dirties it again and puts it
//
// # What a policy sees
//
// PinBegin is called in direct_io_worker, before the first page is looked up, and
// PinEnd in dio_complete, by whoever completes the request, perhaps in an interrupt:
// the places of mm_pinned_sem in KOSAKI's second patch. See PinSubmitted, PinReleased
// and DirectIOPin of [mm.Policy] for what else a policy may want.
//
// # Pipes
//
// A pipe is 16 places for pieces of pages ([Pipe]). write(2) fills pages of the pipe's
// own. vmsplice puts the writer's pages there as they are, found by get_user_pages_fast
// for reading:
//
//	                             references of the pipe on the user's page
//	get_iovec_page_array         +1            PinBegin before
//	splice_to_pipe                1            whatever becomes of the mapping now
//	pipe_read, all of it         -1            PinEnd after the last page of the call
//
// Nothing says when somebody will read. What is read is what the page holds then: if
// the writer has unmapped it and another process still maps it, that process's stores.
// VmsplicePin of [mm.Policy] says what kind of reference a policy wants.
//
// # Asynchronous I/O
//
// [System.IoSetup] makes a [Kioctx]: a ring of events that belongs to an address
// space. A request takes a place in the ring when it is submitted, so there is
// always room for its event; when there is no place, io_submit says EAGAIN.
//
//	reqsActive requests | head ... tail: events not fetched yet | free
//
// # Locks
//
//	i_mutex < i_alloc_sem < policy's pinned_sem < mmap_sem
//	dio     a DIO's bio_lock, and bio_dirty_lock: irq-safe leaves
//	aio_ctx a Kioctx: irq-safe, waiters are woken under it
//	pipe    a pipe's i_mutex: held while user memory is copied, so before mmap_sem
//
// # Not like Linux
//
// Buffered access to block devices has no page cache behind it: each page goes
// through a bounce page and a bio, synchronously. The ring of an aio context is not
// mapped into user memory. There are no file systems yet; direct I/O knows holes,
// new blocks and DIO_LOCKING for them.
package fs
