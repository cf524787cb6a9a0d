"""Many runs: a multirun's words enter, every run done or accounted for leaves."""
