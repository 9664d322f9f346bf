package beeyard

import (
	"context"
	"iter"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
)

// The nouns of scheduling policies, under their own names.
type (
	// PolicySource is the text of a policy and what it is written in.
	PolicySource = queenv1.PolicySource
	// PolicyLanguage is what a policy is written in.
	PolicyLanguage = queenv1.PolicyLanguage
	// PolicyVersion is one policy as it was deployed.
	PolicyVersion = queenv1.PolicyVersion
	// PolicyState is where in its life a version is.
	PolicyState = queenv1.PolicyState
	// PolicyProblem is something that is wrong with a policy.
	PolicyProblem = queenv1.PolicyProblem
	// PolicyTemplate is a policy to start from.
	PolicyTemplate = queenv1.PolicyTemplate
	// Validation is what a check of a policy found.
	Validation = queenv1.ValidatePolicyResponse
	// CompiledPolicy is what became of rules: the Lua that would run, or what is wrong.
	CompiledPolicy = queenv1.CompilePolicyResponse
	// Decision is one decision of a policy, and what became of it.
	Decision = queenv1.Decision
)

// The states of a version.
const (
	PolicyActive    = queenv1.PolicyState_POLICY_STATE_ACTIVE
	PolicyInactive  = queenv1.PolicyState_POLICY_STATE_INACTIVE
	PolicySuspended = queenv1.PolicyState_POLICY_STATE_SUSPENDED
)

// LuaPolicy returns the source of a policy that is a program.
func LuaPolicy(text string) *PolicySource {
	return &PolicySource{Language: queenv1.PolicyLanguage_POLICY_LANGUAGE_LUA, Text: text}
}

// YAMLPolicy returns the source of a policy that is rules.
func YAMLPolicy(text string) *PolicySource {
	return &PolicySource{Language: queenv1.PolicyLanguage_POLICY_LANGUAGE_YAML, Text: text}
}

// Deployment says what a policy is called and when it may be deployed. The zero value deploys in any case.
type Deployment struct {
	// Name of the policy; empty: the one that its source gives.
	Name string
	// Note on what it is for.
	Note string
	// Author is who deploys it; the queen takes it as given.
	Author string
	// ExpectedActiveVersion, if set, is the only one that may be replaced (0: the platform policy); otherwise the error's
	// reason is ReasonStalePolicyVersion.
	ExpectedActiveVersion *int64
}

// ValidatePolicy checks a policy on the queen's present state and generated ones. Nothing changes.
func (c *Client) ValidatePolicy(ctx context.Context, source *PolicySource) (*Validation, error) {
	return patient(ctx, c.policies.ValidatePolicy, &queenv1.ValidatePolicyRequest{Source: source})
}

// DeployPolicy makes a policy the one that decides and returns its version when it does. An *Error with
// ReasonPolicyInvalid tells line and column in its Metadata. Idempotent by content.
func (c *Client) DeployPolicy(ctx context.Context, source *PolicySource, options Deployment) (*PolicyVersion, error) {
	return patient(ctx, c.policies.DeployPolicy, &queenv1.DeployPolicyRequest{
		Source: source, Name: options.Name, Note: options.Note, Author: options.Author,
		ExpectedActiveVersion: options.ExpectedActiveVersion,
	})
}

// PolicyVersions returns what was deployed, newest first and without sources; an empty name means any. It fetches page
// by page as the loop goes on, and stops after the first error.
func (c *Client) PolicyVersions(ctx context.Context, name string) iter.Seq2[*PolicyVersion, error] {
	return func(yield func(*PolicyVersion, error) bool) {
		message := &queenv1.ListPolicyVersionsRequest{PageSize: pageSize, Name: name}
		for {
			page, err := unary(ctx, c.policies.ListPolicyVersions, message)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, version := range page.GetVersions() {
				if !yield(version, nil) {
					return
				}
			}
			if page.GetNextPageToken() == "" {
				return
			}
			message.PageToken = page.GetNextPageToken()
		}
	}
}

// PolicyVersion returns one version with its source; 0 is the platform policy.
func (c *Client) PolicyVersion(ctx context.Context, version int64) (*PolicyVersion, error) {
	return unary(ctx, c.policies.GetPolicyVersion, &queenv1.GetPolicyVersionRequest{Version: &version})
}

// ActivePolicy returns the version that decides now, with its source.
func (c *Client) ActivePolicy(ctx context.Context) (*PolicyVersion, error) {
	return unary(ctx, c.policies.GetPolicyVersion, &queenv1.GetPolicyVersionRequest{})
}

// RollbackPolicy makes an earlier version active again and returns it; 0 is the platform policy.
func (c *Client) RollbackPolicy(ctx context.Context, version int64) (*PolicyVersion, error) {
	return patient(ctx, c.policies.RollbackPolicy, &queenv1.RollbackPolicyRequest{Version: &version})
}

// UndoPolicy makes the version active that was active before the active one. A second call undoes the first.
func (c *Client) UndoPolicy(ctx context.Context) (*PolicyVersion, error) {
	return patient(ctx, c.policies.RollbackPolicy, &queenv1.RollbackPolicyRequest{})
}

// PlatformSource returns the source of the platform policy, to be read or copied.
func (c *Client) PlatformSource(ctx context.Context) (*PolicySource, error) {
	return unary(ctx, c.policies.GetPlatformSource, &queenv1.GetPlatformSourceRequest{})
}

// CompilePolicy compiles rules to the Lua that would run. Lua comes back as it is.
func (c *Client) CompilePolicy(ctx context.Context, source *PolicySource) (*CompiledPolicy, error) {
	return unary(ctx, c.policies.CompilePolicy, &queenv1.CompilePolicyRequest{Source: source})
}

// Templates returns the policies to start from, by name.
func (c *Client) Templates(ctx context.Context) ([]*PolicyTemplate, error) {
	answer, err := unary(ctx, c.policies.ListTemplates, &queenv1.ListTemplatesRequest{})
	return answer.GetTemplates(), err
}

// WatchDecisions returns decisions as they are made, about one job or, if its id is empty, about any; with waits,
// decisions to wait as well. It stops after the first error; leaving the loop ends the call.
func (c *Client) WatchDecisions(ctx context.Context, jobID string, waits bool) iter.Seq2[*Decision, error] {
	return func(yield func(*Decision, error) bool) {
		call, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.policies.WatchDecisions(call, &queenv1.WatchDecisionsRequest{JobId: jobID, IncludeWaits: waits})
		for err == nil {
			var decision *Decision
			if decision, err = stream.Recv(); err == nil && !yield(decision, nil) {
				return
			}
		}
		yield(nil, fromRPC(ctx, err))
	}
}
