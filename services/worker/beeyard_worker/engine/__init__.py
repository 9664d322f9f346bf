"""What turns prompts into tokens: one port, several engines behind it."""
