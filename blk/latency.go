package blk

import (
	"fmt"
	"math/bits"
)

// Latency is a device's time model, in virtual time. A request waits for one of
// the device's units; then it costs the overhead of a command, for a disk that
// has to move its head the seek and the turn, and the transfer:
//
//	          wait for a unit     base   settle + full x distance / capacity + turn    bytes
//	start ---------------------> ------ ---------------------------------------------> =========> end
//	                                                                                   chunks move
//
// All times but PSPerByte are in nanoseconds. The model has no caches, no
// random numbers and no zones of different speed: the same requests take the same
// time on every host.
type Latency struct {
	// Name is what tables call the model.
	Name string
	// BaseNS is the overhead of a command.
	BaseNS uint64
	// SettleNS, FullSeekNS and TurnNS are what a request costs that does not begin
	// where the last one ended: a constant, a part in proportion to the
	// distance (FullSeekNS is for the whole capacity), and half a turn.
	SettleNS, FullSeekNS, TurnNS uint64
	// ReadPSPerByte and WritePSPerByte are the transfer in picoseconds a byte.
	ReadPSPerByte, WritePSPerByte uint64
	// Units is how many requests are worked on at once: heads, or flash
	// channels; zero means 1.
	Units int
	// Depth is how many requests the device accepts; zero means 1.
	Depth int
	// Rotational says that requests are held back by the plug, so that they can be
	// merged before the head moves.
	Rotational bool
}

// Disk2009 is a desktop disk of 2009, 7200 turns a minute: 8.5 ms for the
// average seek (a third of the capacity), 4.17 ms for half a turn, 125 MB/s
// along a track, as in data sheets of 500 GB drives of that year; 31
// commands, as Linux used NCQ.
func Disk2009() Latency {
	return Latency{
		Name: "disk2009", BaseNS: 100_000, SettleNS: 800_000, FullSeekNS: 23_100_000, TurnNS: 4_170_000,
		ReadPSPerByte: 8_000, WritePSPerByte: 8_000, Units: 1, Depth: 31, Rotational: true,
	}
}

// FastDevice is a PCI Express flash card of 2009: 50 us for a command, 700 MB/s
// for reads and 550 MB/s for writes, eight channels.
func FastDevice() Latency {
	return Latency{
		Name: "fast", BaseNS: 50_000, ReadPSPerByte: 1_430, WritePSPerByte: 1_820, Units: 8, Depth: 32,
	}
}

// Instant is a device that takes no time: for measuring what the CPU does.
func Instant() Latency { return Latency{Name: "instant", Units: 32, Depth: 32} }

// Validate reports what is wrong with the model.
func (l *Latency) Validate() error {
	if l.Units < 0 || l.Units > 1024 {
		return fmt.Errorf("blk: latency %q: Units is %d, must be 1 to 1024", l.Name, l.Units)
	}
	if l.Depth < 0 || l.Depth > 1<<16 {
		return fmt.Errorf("blk: latency %q: Depth is %d, must be 1 to 65536", l.Name, l.Depth)
	}
	return nil
}

// clock is what the model remembers: when each unit is free, and where the
// head is.
type clock struct {
	l    Latency
	free []uint64 // ns at which a unit is free
	last uint64   // sector after the last request
}

func (c *clock) init(l Latency) {
	l.Units, l.Depth = max(l.Units, 1), max(l.Depth, 1)
	c.l = l
	c.free = make([]uint64, l.Units)
}

// serve says when the transfer of a request that arrives now begins and how long it
// takes.
func (c *clock) serve(now uint64, d Dir, sector, sectors, capacity uint64) (begin, length uint64) {
	unit := 0
	for i, at := range c.free {
		if at < c.free[unit] {
			unit = i
		}
	}
	begin = max(now, c.free[unit]) + c.l.BaseNS
	if sector != c.last {
		distance := max(sector, c.last) - min(sector, c.last)
		begin += c.l.SettleNS + c.l.TurnNS + c.seek(distance, capacity)
	}
	ps := c.l.ReadPSPerByte
	if d == Write {
		ps = c.l.WritePSPerByte
	}
	length = sectors << SectorShift * ps / 1000
	c.last = sector + sectors
	c.free[unit] = begin + length
	return begin, length
}

// seek is the part of a seek that depends on the distance.
func (c *clock) seek(distance, capacity uint64) uint64 {
	hi, lo := bits.Mul64(c.l.FullSeekNS, distance)
	if hi >= capacity {
		return c.l.FullSeekNS
	}
	ns, _ := bits.Div64(hi, lo, capacity)
	return ns
}
