"""The routes, by subject. `permission` of each stands beside it."""
