"""Who is on the other side of a link, and what they may do: TLS, tokens, roles, and the one table of rights."""
