"""GPU side: the queue worker, its slots and the runner process."""
