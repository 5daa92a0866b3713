package blk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

func imageFile(t *testing.T, bytes int) string {
	path := filepath.Join(t.TempDir(), "disk.img")
	data := make([]byte, bytes)
	for i := range data {
		data[i] = pattern(int64(i))
	}
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

func TestOpenImageErrors(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, path, says string
	}{
		{"missing", filepath.Join(dir, "none.img"), "no such file; make one with"},
		{"directory", dir, "is a directory, not a file"},
		{"device", os.DevNull, "is no plain file"},
		{"empty", imageFile(t, 0), "is empty"},
		{"odd size", imageFile(t, 1000), "has 1000 bytes, which is no multiple of the sector size 512 (488 are left over)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := OpenImage(c.path, false)
			var ie *ImageError
			require.ErrorAs(t, err, &ie)
			assert.Equal(t, c.path, ie.Path)
			assert.Contains(t, err.Error(), c.path)
			assert.Contains(t, err.Error(), c.says)
		})
	}
	_, err := OpenImage(filepath.Join(dir, "none.img"), true)
	assert.ErrorIs(t, err, os.ErrNotExist)
	t.Run("not writable", func(t *testing.T) {
		path := imageFile(t, 512)
		require.NoError(t, os.Chmod(path, 0o400))
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			f.Close()
			t.Skip("permissions do not bind this user")
		}
		_, err := OpenImage(path, false)
		assert.ErrorContains(t, err, "open it read-only")
		img, err := OpenImage(path, true)
		require.NoError(t, err)
		require.NoError(t, img.Close())
	})
}

// TestImage: what is written is in the host's file, chunk by chunk.
func TestImage(t *testing.T) {
	regimes(t, 2, func(t *testing.T, o sched.Options) {
		path := imageFile(t, 64<<10)
		img, err := OpenImage(path, false)
		require.NoError(t, err)
		defer img.Close()
		r := newRig(t, o, DeviceOptions{Backing: img})
		var p *page.Page
		r.run(func(t *sched.Task) {
			p = r.alloc(t)
			b := r.bio(t, Read, 8, p, 0, 4096, nil)
			if err := r.sys.SubmitBioWait(t, b); err != nil {
				t.Oops("%v", err)
			}
			r.sys.PutBio(t, b)
			b = r.bio(t, Write, 31, p, 512, 1024, nil)
			if err := r.sys.SubmitBioWait(t, b); err != nil {
				t.Oops("%v", err)
			}
		})
		r.holds(p, 0, 4096, 8)
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Len(t, got, 64<<10)
		for i := range got {
			want := pattern(int64(i))
			if i >= 31*512 && i < 33*512 {
				want = pattern(int64(i - 31*512 + 9*512))
			}
			if got[i] != want {
				require.Fail(t, "wrong byte", "at %d: %#x, want %#x", i, got[i], want)
			}
		}
		assert.NoError(t, img.HostError())
	})
}

func TestImageReadOnly(t *testing.T) {
	path := imageFile(t, 4096)
	img, err := OpenImage(path, true)
	require.NoError(t, err)
	defer img.Close()
	r := newRig(t, sched.Options{Regime: sched.Timed}, DeviceOptions{Backing: img})
	assert.True(t, r.dev.ReadOnly())
	r.run(func(t *sched.Task) {
		p := r.alloc(t)
		b := r.bio(t, Write, 0, p, 0, 512, nil)
		if err := r.sys.SubmitBioWait(t, b); err != unix.EIO {
			t.Oops("write to a read-only disk: %v", err)
		}
	})
}

// TestImageShrinks: the file becomes shorter under the machine.
func TestImageShrinks(t *testing.T) {
	for _, reg := range []sched.Regime{sched.Parallel, sched.Timed} {
		path := imageFile(t, 8192)
		img, err := OpenImage(path, false)
		require.NoError(t, err)
		defer img.Close()
		require.NoError(t, os.Truncate(path, 1024))
		r := newRig(t, sched.Options{Regime: reg}, DeviceOptions{Backing: img})
		r.run(func(t *sched.Task) {
			p := r.alloc(t)
			b := r.bio(t, Read, 0, p, 0, 4096, nil)
			if err := r.sys.SubmitBioWait(t, b); err != unix.EIO {
				t.Oops("read beyond the end: %v", err)
			}
		})
		assert.ErrorContains(t, img.HostError(), "the file has shrunk")
		var ie *ImageError
		assert.True(t, errors.As(img.HostError(), &ie))
	}
}
