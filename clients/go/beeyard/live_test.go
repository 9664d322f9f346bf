package beeyard_test

// Tests against a live queen: they run where BEEYARD_QUEEN names one (HOST:PORT) and BEEYARD_MODEL a model that it
// serves, and are skipped, not passed, elsewhere. `tests/wire/test_go_client.py` starts the queen and checks that none
// was skipped.

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/beeyard/beeyard/clients/go/beeyard"
)

// live returns a client of the queen under test and the model to ask for.
func live(t *testing.T) (*beeyard.Client, string) {
	t.Helper()
	address := os.Getenv("BEEYARD_QUEEN")
	if address == "" {
		t.Skip("NOT RUN: set BEEYARD_QUEEN to a queen's HOST:PORT, and BEEYARD_MODEL to a model that it serves")
	}
	client, err := beeyard.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, os.Getenv("BEEYARD_MODEL")
}

func TestLiveExampleStreamsAnAnswer(t *testing.T) {
	client, model := live(t)
	var out strings.Builder
	count, err := stream(t.Context(), client, model, &out)
	if err != nil {
		t.Fatal(err)
	}
	if count != 16 || !strings.Contains(out.String(), "[worker ") || !strings.Contains(out.String(), "tokens/s]") {
		t.Errorf("%d tokens: %s", count, out.String())
	}
}

func TestLiveSameSeedGivesTheSameText(t *testing.T) {
	client, model := live(t)
	texts := map[string]bool{}
	for range 2 {
		stream, err := client.Infer(t.Context(), beeyard.Request{Model: model, Prompt: "bee", MaxTokens: 8, Seed: new(int64(7))})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Collect()
		if err != nil {
			t.Fatal(err)
		}
		texts[answer.Text] = true
	}
	if len(texts) != 1 {
		t.Errorf("texts differ: %v", texts)
	}
}

func TestLiveAJobIsSubmittedWatchedListedAndFound(t *testing.T) {
	client, model := live(t)
	request := beeyard.Request{
		RequestID: "go-live-" + t.Name(), Model: model, Prompt: "bee", MaxTokens: 8, TenantID: "go-live",
	}
	job, err := client.Submit(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := client.Submit(t.Context(), request)
	if err != nil || again.GetJobId() != job.GetJobId() {
		t.Errorf("the same request id gave %v, %v", again, err)
	}
	stream, err := client.Watch(t.Context(), job.GetJobId(), 0)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := stream.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := client.Watch(t.Context(), job.GetJobId(), 5); err != nil {
		t.Error(err)
	} else if part, err := rest.Collect(); err != nil || !strings.HasSuffix(whole.Text, part.Text) || part.Text == "" {
		t.Errorf("from token 5: %q of %q, %v", part.Text, whole.Text, err)
	}
	if job, err = client.Get(t.Context(), job.GetJobId()); err != nil || job.GetState() != beeyard.JobCompleted {
		t.Errorf("got %v, %v", job, err)
	}
	found := false
	for listed, err := range client.List(t.Context(), beeyard.Filter{TenantID: "go-live"}) {
		if err != nil {
			t.Fatal(err)
		}
		found = found || listed.GetJobId() == job.GetJobId()
	}
	if !found {
		t.Error("the job is not listed")
	}
}

func TestLiveACancelledJobDeliversNoMore(t *testing.T) {
	client, model := live(t)
	stream, err := client.Infer(t.Context(), beeyard.Request{Model: model, Prompt: "bee", MaxTokens: 1_000})
	if err != nil {
		t.Fatal(err)
	}
	job, err := client.Cancel(t.Context(), stream.JobID())
	if err != nil || job.GetState() != beeyard.JobCancelled {
		t.Fatalf("got %v, %v", job, err)
	}
	var cancelled *beeyard.Error
	if _, err := stream.Collect(); !errors.As(err, &cancelled) || cancelled.Reason != beeyard.ReasonCancelled {
		t.Errorf("got %v", err)
	}
	if again, err := client.Cancel(t.Context(), job.GetJobId()); err != nil || again.GetState() != beeyard.JobCancelled {
		t.Errorf("cancelled twice: %v, %v", again, err)
	}
}

func TestLiveRefusalsAreTyped(t *testing.T) {
	client, model := live(t)
	for name, trial := range map[string]struct {
		request beeyard.Request
		reason  beeyard.Reason
		field   string
	}{
		"nothing to continue": {beeyard.Request{Model: model}, beeyard.ReasonInvalidRequest, "prompt"},
		"negative limit":      {beeyard.Request{Model: model, Prompt: "bee", MaxTokens: -1}, beeyard.ReasonInvalidRequest, "max_tokens"},
		"unknown model":       {beeyard.Request{Model: "no-such-model", Prompt: "bee"}, beeyard.ReasonModelNotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Infer(t.Context(), trial.request)
			var refused *beeyard.Error
			if !errors.As(err, &refused) || refused.Reason != trial.reason {
				t.Fatalf("got %v", err)
			}
			if trial.field != "" && refused.Field != trial.field {
				t.Errorf("field %q", refused.Field)
			}
		})
	}
	var refused *beeyard.Error
	if _, err := client.Get(t.Context(), "no-such-job"); !errors.As(err, &refused) || refused.Reason != beeyard.ReasonJobNotFound {
		t.Errorf("got %v", err)
	}
}

func TestLiveTheFleetIsListed(t *testing.T) {
	client, model := live(t)
	pools, err := client.Pools(t.Context())
	if err != nil || len(pools) == 0 {
		t.Errorf("pools %v, %v", pools, err)
	}
	workers, err := client.Workers(t.Context(), "", model)
	if err != nil || len(workers) == 0 {
		t.Errorf("workers %v, %v", workers, err)
	}
	models, err := client.Models(t.Context())
	if err != nil || len(models) == 0 {
		t.Errorf("models %v, %v", models, err)
	}
	for fleet, err := range client.WatchFleet(t.Context(), 100*time.Millisecond) {
		if err != nil || len(fleet.GetWorkers()) == 0 {
			t.Errorf("fleet %v, %v", fleet, err)
		}
		break
	}
}

func TestLiveAPolicyIsDeployedListedAndRolledBack(t *testing.T) {
	client, _ := live(t)
	ctx := t.Context()
	// Whatever happens here, the platform policy decides afterwards.
	t.Cleanup(func() { client.RollbackPolicy(context.Background(), 0) }) //nolint:errcheck // the test has its verdict
	var out strings.Builder
	version, err := deploy(ctx, client, "function schedule(context) return platform.schedule(context) end", &out)
	if err != nil || version.GetState() != beeyard.PolicyActive || !strings.HasSuffix(out.String(), "decides\n") {
		t.Fatalf("got %v, %v, %s", version, err, out.String())
	}
	if active, err := client.ActivePolicy(ctx); err != nil || active.GetDigest() != version.GetDigest() {
		t.Errorf("active: %v, %v", active, err)
	}
	found := false
	for listed, err := range client.PolicyVersions(ctx, "patient") {
		if err != nil {
			t.Fatal(err)
		}
		found = found || listed.GetVersion() == version.GetVersion()
	}
	if !found {
		t.Error("the version is not listed")
	}
	out.Reset()
	if _, err := deploy(ctx, client, "function schedule(c)\n return {action= end", &out); err == nil || !strings.HasPrefix(out.String(), "line 2: ") {
		t.Errorf("a syntax error: %v, %s", err, out.String())
	}
	stale := beeyard.Deployment{ExpectedActiveVersion: new(version.GetVersion() + 1)}
	var refused *beeyard.Error
	if _, err := client.DeployPolicy(ctx, beeyard.LuaPolicy("function schedule() return {action='wait'} end"), stale); !errors.As(err, &refused) || refused.Reason != beeyard.ReasonStalePolicyVersion {
		t.Errorf("stale: %v", err)
	}
	if _, err := client.PolicyVersion(ctx, 1<<40); !errors.As(err, &refused) || refused.Reason != beeyard.ReasonPolicyNotFound {
		t.Errorf("not there: %v", err)
	}
	if back, err := client.RollbackPolicy(ctx, 0); err != nil || back.GetVersion() != 0 {
		t.Errorf("back: %v, %v", back, err)
	}
	if again, err := client.UndoPolicy(ctx); err != nil || again.GetVersion() != version.GetVersion() {
		t.Errorf("undone: %v, %v", again, err)
	}
}

func TestLivePoliciesAreCheckedAndCompiled(t *testing.T) {
	client, _ := live(t)
	ctx := t.Context()
	source, err := client.PlatformSource(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if checked, err := client.ValidatePolicy(ctx, source); err != nil || len(checked.GetProblems()) != 0 || checked.GetStatesTried() == 0 {
		t.Errorf("the platform policy: %v, %v", checked.GetProblems(), err)
	}
	if compiled, err := client.CompilePolicy(ctx, beeyard.YAMLPolicy("{")); err != nil || len(compiled.GetProblems()) == 0 {
		t.Errorf("broken rules: %v, %v", compiled, err)
	}
	templates, err := client.Templates(ctx)
	if err != nil || len(templates) < 9 {
		t.Errorf("templates: %d, %v", len(templates), err)
	}
}
