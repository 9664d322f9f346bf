"""The worker processes of this host: starting, watching, adopting and stopping them."""
