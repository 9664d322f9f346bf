"""What leaves the queen: events to followers of jobs, orders to workers, wishes to hosts."""
