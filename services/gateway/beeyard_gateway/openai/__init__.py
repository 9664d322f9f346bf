"""The OpenAI API over the queen: completions of chats and texts, streamed and whole, and the list of models."""
