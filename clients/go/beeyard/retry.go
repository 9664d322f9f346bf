package beeyard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// untilTaken makes a call that carries an idempotency key until a queen has answered it with yes or no.
func untilTaken[A any](ctx context.Context, call func() (A, error)) (A, error) {
	began := time.Now()
	_, bounded := ctx.Deadline()
	for tries := 1; ; tries++ {
		answer, err := call()
		if err == nil || !isPassing(err) || !bounded && time.Since(began) >= submitWindow {
			return answer, err
		}
		if cause := rest(ctx, tries); cause != nil {
			return answer, fmt.Errorf("beeyard: not submitted: %w (before that: %w)", cause, err)
		}
	}
}

// isPassing says whether it is unknown if the queen took the job, or known that it took none since it is shutting down:
// its successor may. A queen that names any other reason has refused the job, and trying again is for the caller to
// decide.
func isPassing(err error) bool {
	var answer *Error
	if !errors.As(err, &answer) {
		return false
	}
	return answer.Reason == ReasonDraining || !answer.fromQueen && isBroken(err)
}

// rest waits between two tries; it returns the context's cause if that ended first.
func rest(ctx context.Context, tries int) error {
	timer := time.NewTimer(delay(tries))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// delay doubles from try to try up to a bound. It is drawn from the upper half, so that the callers of a queen that
// restarts do not come back at one moment.
func delay(tries int) time.Duration {
	ceiling := min(backoffMin<<min(tries-1, 10), backoffMax)
	return ceiling/2 + rand.N(ceiling/2)
}
