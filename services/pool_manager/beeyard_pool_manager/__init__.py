"""The pool manager: reports what one host is and does, and runs the workers that should run there."""
