package blk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cowlab/cowlab/arch/x86"
)

// Image is a Backing in a plain file of the host. Sectors are read and written
// at the moment of their DMA, so the file holds what the program wrote as soon
// as the machine has stopped, whatever way it ended.
type Image struct {
	f        *os.File
	path     string
	bytes    int64
	readOnly bool

	lock x86.RawSpin
	err  error // first error of the host; protected by lock
}

// ImageError says why a file cannot be used as a disk image.
type ImageError struct {
	Path string
	Why  string
	// Err is the host's error, if it was one.
	Err error
}

// Error describes the failure in one line.
func (e *ImageError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("blk: disk image %s: %s", e.Path, e.Why)
	}
	err := e.Err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path is in the message already
	}
	return fmt.Sprintf("blk: disk image %s: %s: %v", e.Path, e.Why, err)
}

// Unwrap returns the host's error.
func (e *ImageError) Unwrap() error { return e.Err }

// OpenImage opens a host file as a disk. It must exist, be a plain file, and
// its size a multiple of 512 bytes and not zero. With readOnly it is
// never written; without, it must be writable. All errors are of type *ImageError.
func OpenImage(path string, readOnly bool) (*Image, error) {
	bad := func(why string, err error) (*Image, error) { return nil, &ImageError{path, why, err} }
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad("no such file; make one with, for example, truncate -s 1M", err)
	case err != nil:
		return bad("cannot be looked at", err)
	case info.IsDir():
		return bad("is a directory, not a file", nil)
	case !info.Mode().IsRegular():
		return bad("is no plain file but "+info.Mode().Type().String(), nil)
	case info.Size() == 0:
		return bad("is empty; a disk needs at least one sector of 512 bytes", nil)
	case info.Size()%SectorSize != 0:
		return bad(fmt.Sprintf("has %d bytes, which is no multiple of the sector size 512 (%d are left over)",
			info.Size(), info.Size()%SectorSize), nil)
	}
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	switch {
	case errors.Is(err, fs.ErrPermission) && !readOnly:
		return bad("cannot be written; open it read-only, or change its permissions", err)
	case err != nil:
		return bad("cannot be opened", err)
	}
	return &Image{f: f, path: path, bytes: info.Size(), readOnly: readOnly}, nil
}

// Path returns the host's path of the file.
func (i *Image) Path() string { return i.path }

// Bytes implements Backing: the size at the time of OpenImage.
func (i *Image) Bytes() int64 { return i.bytes }

// ReadOnly implements Backing.
func (i *Image) ReadOnly() bool { return i.readOnly }

// ReadAt implements Backing.
func (i *Image) ReadAt(p []byte, off int64) error {
	_, err := i.f.ReadAt(p, off)
	if err == io.EOF {
		err = fmt.Errorf("the file has shrunk: %w", io.ErrUnexpectedEOF)
	}
	return i.note("read", off, err)
}

// WriteAt implements Backing.
func (i *Image) WriteAt(p []byte, off int64) error {
	_, err := i.f.WriteAt(p, off)
	return i.note("write", off, err)
}

func (i *Image) note(what string, off int64, err error) error {
	if err == nil {
		return nil
	}
	err = &ImageError{i.path, fmt.Sprintf("%s at byte %d", what, off), err}
	i.lock.Lock()
	if i.err == nil {
		i.err = err
	}
	i.lock.Unlock()
	return err
}

// HostError returns the first error that the host gave for a read or write;
// the program saw EIO.
func (i *Image) HostError() error {
	i.lock.Lock()
	err := i.err
	i.lock.Unlock()
	return err
}

// Close closes the file. The machine must have stopped for good.
func (i *Image) Close() error { return i.f.Close() }
