"""stepfall: what is computed: cascades of Einsums as text, checked, printed, bound to sizes and executed in numpy."""
