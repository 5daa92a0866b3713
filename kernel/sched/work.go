package sched

import "github.com/cowlab/cowlab/arch/x86"

// Workqueue runs functions in process context, one after another, on a kernel
// thread of its own (create_singlethread_workqueue).
type Workqueue struct {
	m    *Machine
	task *Task
	obj  x86.ObjID
	lock x86.RawSpin
	list []func(*Task) // protected by lock
}

// NewWorkqueue makes a workqueue and its thread.
func (m *Machine) NewWorkqueue(name string) *Workqueue {
	w := &Workqueue{m: m, obj: m.NewObj(x86.ClassWait)}
	w.task = m.NewTask(TaskOptions{Name: name, Daemon: true}, w.loop)
	m.Start(nil, w.task)
	return w
}

// Queue adds fn; it may be called in interrupt context.
func (w *Workqueue) Queue(t *Task, fn func(*Task)) {
	t.Point(x86.OpWake, w.obj)
	w.lock.Lock()
	w.list = append(w.list, fn)
	w.lock.Unlock()
	w.m.Wake(t, w.task)
}

func (w *Workqueue) loop(t *Task) {
	for {
		t.SetState(TaskUninterruptible)
		t.C.Touch(w.obj, x86.AccWrite)
		w.lock.Lock()
		var fn func(*Task)
		if len(w.list) > 0 {
			fn = w.list[0]
			w.list = append(w.list[:0], w.list[1:]...)
		}
		w.lock.Unlock()
		t.Acquired(w.obj)
		if fn == nil {
			t.WaitingOn(w.obj)
			t.Schedule()
			continue
		}
		t.SetState(TaskRunning)
		fn(t)
		t.Progress()
	}
}
