"""What stepfall computes: cascades of Einsums as text, checked, printed, bound to sizes, executed in numpy."""
