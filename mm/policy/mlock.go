package policy

// MlockPopulates implements mm.Policy: in the kernel of the row mlock takes no
// references (since Linux 2.6.38), and so no pin is seen. The rows of 2009 are on a kernel in
// which it does, without saying that it is the kernel's own.
func (GUPCowBreak) MlockPopulates() bool { return true }

// MlockPopulates implements mm.Policy.
func (WPCopy) MlockPopulates() bool { return true }

// MlockPopulates implements mm.Policy.
func (PinCopy) MlockPopulates() bool { return true }

// MlockPopulates implements mm.Policy.
func (AnonExclusive) MlockPopulates() bool { return true }

// MlockPopulates implements mm.Policy.
func (MapcountUnshare) MlockPopulates() bool { return true }

// MlockPopulates implements mm.Policy.
func (VMNoCOW) MlockPopulates() bool { return true }

// MlockPopulates implements mm.Policy: the sentry's mlock is its own, and pins nothing.
func (SentryPinCopy) MlockPopulates() bool { return true }
