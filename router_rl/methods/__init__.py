"""Methods: what learns a policy of a problem, and the rules that it is compared with."""
