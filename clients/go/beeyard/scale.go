package beeyard

import (
	"context"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
)

// Scale says how many workers of a model there should be.
type Scale = queenv1.Scale

// ModelScale is what is wanted of one model, and what there is.
type ModelScale = queenv1.ModelScale

// ModelScales returns how many workers each model should have and has, by name; of one model only, if it is named.
func (c *Client) ModelScales(ctx context.Context, model string) ([]*ModelScale, error) {
	answer, err := unary(ctx, c.fleet.ListModelScales, &queenv1.ListModelScalesRequest{Model: model})
	return answer.GetModelScales(), err
}

// ScaleModel says how many workers of a model there should be from now on; nil: what the queen's file says again.
func (c *Client) ScaleModel(ctx context.Context, model string, scale *Scale) (*ModelScale, error) {
	answer, err := unary(ctx, c.fleet.SetModelScale, &queenv1.SetModelScaleRequest{Model: model, Scale: scale})
	return answer.GetModelScale(), err
}
