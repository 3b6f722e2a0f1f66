//! The one derive function and the one transition table of a job's life (rules.md section 1).
