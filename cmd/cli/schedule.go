package cli

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/tests/matrix"
)

// schedule is one run to be replayed: named by a token, or found along the switches of
// a file.
type schedule struct {
	*named
	hosts *kernel.Hosts
	tok   explore.Token
	// notes are said before the result: how the schedule was found.
	notes []string
	// differs is set if the program is not the one that the file was made with.
	differs error
}

// close gives the host's memory back.
func (s *schedule) close() { s.hosts.Close() }

// maxFile bounds what is read of a file, and of what is in it.
const maxFile = 256 << 20

// openSchedule reads what replay and step are asked to replay: a token, a file of
// switches, a bundle, or a file that holds a token. goOn, if not empty, is the strategy
// after the prefix, which is the schedule's first upto decisions, or all its switches if
// upto is 0.
func (e *env) openSchedule(arg, goOn string, upto uint64) (*schedule, error) {
	data, err := readFile(arg)
	if err != nil {
		return nil, err
	}
	var f *explore.SwitchFile
	var rec *explore.Recording
	switch {
	case bytes.HasPrefix(data, []byte("PK")):
		if f, rec, err = readBundle(arg, data); err != nil {
			return nil, err
		}
	case explore.IsSwitchFile(string(data)):
		if f, err = explore.ParseSwitchFile(bytes.NewReader(data)); err != nil {
			return nil, usagef("%s: %v", arg, err)
		}
	}
	var tok explore.Token
	file := arg
	switch {
	case f != nil:
		tok = f.Token(explore.Spec{Kind: explore.KindSwitches})
	default:
		if data != nil {
			arg = string(data)
		}
		if tok, err = explore.ParseToken(arg); err != nil {
			if data != nil {
				return nil, usagef("%s is no bundle, no file of switches and no token: %v", file, err)
			}
			if !strings.HasPrefix(strings.TrimSpace(arg), "cl") {
				err = fmt.Errorf("%w; and there is no file of that name", err)
			}
			return nil, usagef("%v", err)
		}
	}
	s := &schedule{tok: tok, hosts: kernel.NewHosts()}
	if s.named, err = e.resolve(tok, s.hosts); err != nil {
		s.close()
		return nil, err
	}
	if f != nil {
		err = s.follow(f, rec, goOn, upto)
	} else if goOn != "" {
		err = s.goOn(goOn, upto)
	} else if upto != 0 {
		err = usagef("-upto says where -continue begins, which is not given")
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// readFile reads a file, nil if there is none of that name.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(name, ".zip") && !strings.HasSuffix(name, ".switches") {
			return nil, nil
		}
		if strings.HasPrefix(name, "cl1.") { // too long for a file's name, for instance
			return nil, nil
		}
		return nil, usagef("%v", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	if err != nil {
		return nil, usagef("%v", err)
	}
	return data, nil
}

// readBundle reads what a bundle is replayed by.
func readBundle(name string, data []byte) (*explore.SwitchFile, *explore.Recording, error) {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, nil, usagef("%s: %v", name, err)
	}
	open := func(file string) (io.ReadCloser, error) {
		f, err := z.Open(file)
		if err != nil {
			return nil, usagef("%s: not a bundle of cowlab: it has no %s", name, file)
		}
		return f, nil
	}
	r, err := open(bundleSwitches)
	if err != nil {
		return nil, nil, err
	}
	f, err := explore.ParseSwitchFile(io.LimitReader(r, maxFile))
	r.Close()
	if err != nil {
		return nil, nil, usagef("%s: %v", name, err)
	}
	if r, err = open(bundleSteps); err != nil {
		return nil, nil, err
	}
	rec, err := explore.ParseRecording(io.LimitReader(r, maxFile))
	r.Close()
	if err != nil {
		return nil, nil, usagef("%s: %v", name, err)
	}
	return f, rec, nil
}

// strategyAfter reads the strategy of -continue.
func (s *schedule) strategyAfter(goOn string, length int) (func() sched.Strategy, error) {
	if goOn == "" {
		return nil, nil
	}
	spec, err := explore.ParseStrategy(goOn, uint64(length))
	if err != nil {
		return nil, usagef("-continue: %v", err)
	}
	return spec.Strategy, nil
}

// follow finds the schedule of a file of switches. If there is a recording too, the
// run is first held against it, step by step.
func (s *schedule) follow(f *explore.SwitchFile, rec *explore.Recording, goOn string, upto uint64) error {
	if upto != 0 {
		return usagef("-upto is for tokens; a file of switches goes on behind its last switch")
	}
	length := 1000
	if rec != nil {
		length = len(rec.Decisions)
		_, err := explore.Replay(*s.target, rec)
		if err == nil {
			s.notes = append(s.notes, fmt.Sprintf("all %d steps are those that were recorded", length))
			if goOn == "" {
				_, again := explore.Record(*s.target, explore.NewReplayer(rec)) // knows which decisions are departures
				s.tok = s.target.Token(explore.Spec{Kind: explore.KindSwitches, Switches: again.Switches()})
				return nil
			}
		} else {
			s.notes = append(s.notes, err.Error())
			s.differs = fmt.Errorf("%w: the program makes other steps than were recorded", errDiffer)
		}
	}
	then, err := s.strategyAfter(goOn, length)
	if err != nil {
		return err
	}
	found := explore.Follow(*s.target, f.Marks, then)
	s.tok = s.target.Token(found.Spec)
	for i, at := range found.Found {
		if m := &f.Marks[i]; at != m.At || found.How[i] != explore.ByObject {
			s.notes = append(s.notes, fmt.Sprintf("switch %d is at decision %d now, was %d; found by %s", i+1, at, m.At, found.How[i]))
		}
	}
	s.notes = append(s.notes, found.Other...)
	if found.Lost != nil {
		s.notes = append(s.notes, found.Lost.Error(), "what follows is the run without that switch and those behind it")
		s.differs = fmt.Errorf("%w: %d of %d switches were found", errDiffer, len(found.Found), len(f.Marks))
	} else {
		s.notes = append(s.notes, fmt.Sprintf("all %d switches were found: %s", len(f.Marks), s.tok))
		if goOn == "" && f.Verdict != "" && found.Verdict != f.Verdict {
			s.differs = fmt.Errorf("%w: the verdict was %s", errDiffer, f.Verdict)
		}
	}
	if goOn != "" {
		s.differs = nil // another run was asked for
	}
	return nil
}

// goOn makes the schedule the token's first decisions, continued by another strategy.
func (s *schedule) goOn(strategy string, upto uint64) error {
	spec := s.tok.Spec
	if upto == 0 {
		n := len(spec.Switches)
		if n == 0 {
			return usagef("-continue: the token has no switches to go on behind; -upto N says after how many decisions")
		}
		upto = spec.Switches[n-1].At + 1
	}
	_, rec := explore.Record(*s.target, spec.Strategy())
	if upto > uint64(len(rec.Decisions)) {
		return usagef("-upto %d is beyond the run, which has %d decisions", upto, len(rec.Decisions))
	}
	then, err := s.strategyAfter(strategy, len(rec.Decisions))
	if err != nil {
		return err
	}
	_, rec = explore.Record(*s.target, explore.NewContinued(spec.Strategy(), upto, then()))
	s.tok = s.target.Token(explore.Spec{Kind: explore.KindSwitches, Switches: rec.Switches()})
	s.notes = append(s.notes, fmt.Sprintf("the first %d decisions, then %s: %s", upto, strategy, s.tok))
	return nil
}

// switchFile describes the schedule by what happens at its switches.
func (s *schedule) switchFile(verdict string) *explore.SwitchFile {
	return &explore.SwitchFile{
		Target: s.tok.Target, Params: s.tok.Params, Policy: s.tok.Policy, Verdict: verdict,
		Marks: explore.Marks(*s.target, s.tok.Spec, matrix.CaptureOptions()),
	}
}
