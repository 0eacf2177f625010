"""PostgreSQL: each statement above the one function that runs it, and the migrations. No rule is decided here."""
