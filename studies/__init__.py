"""stepfall's questions: studies over many results, their reports, and the commands."""
