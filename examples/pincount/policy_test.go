package main

import (
	"testing"

	"github.com/cowlab/cowlab/tests/policytest"
)

func TestPolicy(t *testing.T) { policytest.Run(t, pinCount{}) }
