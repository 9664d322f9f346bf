// Package beeyard is a client of a Beeyard queen: it submits inference jobs, follows their tokens and looks at the
// fleet.
//
// A job outlives the call that started it. That is why a [Stream] can promise more than a gRPC stream does: when the
// connection breaks, or the queen restarts, it goes on by itself with WatchJob at the next token index, so a reader
// sees every token once and in order, or an error. Closing a stream therefore does not stop the job; [Client.Cancel]
// does.
//
// Every error that a queen sent is an [*Error] with a reason out of the contract's closed list; use [errors.As].
// Errors that the caller's context caused satisfy [errors.Is] with [context.Canceled] or [context.DeadlineExceeded].
//
// The messages themselves are the generated ones of the gen folder; this package gives the ones that a caller meets a
// short name and adds nothing to them.
package beeyard
