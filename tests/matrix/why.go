package matrix

import (
	"context"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// WhySafe says why a workload that another policy loses data on is safe under p: the
// nearest miss, and the operation that closed it. See explore.NearMiss for how, and for what
// it is worth. The errors *explore.Unsafe and *explore.NoWitness say that there is nothing
// to explain.
func WhySafe(ctx context.Context, w *workload.Workload, v workload.Values, p, against mm.Policy, hosts *kernel.Hosts, o explore.WhyOptions) (*explore.NearMiss, error) {
	return WhyTargets(ctx, *Target(w, v, against, hosts), *Target(w, v, p, hosts), o)
}

// WhyTargets is WhySafe for any program: a target of the unsafe policy and one of the safe.
func WhyTargets(ctx context.Context, unsafe, safe explore.Target, o explore.WhyOptions) (*explore.NearMiss, error) {
	o.Tell = func(t *explore.Target, s explore.Spec, like *explore.Story) *explore.Story {
		return TellLike(t, s, like).Story
	}
	return explore.Why(ctx, unsafe, safe, o)
}
