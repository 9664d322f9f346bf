"""The project's figures, each a ratio against a control in the same run."""
