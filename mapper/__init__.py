"""stepfall: mapping: who computes what, when, where the data stays, and what that costs in closed form."""
