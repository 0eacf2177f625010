"""Read-only SQL for people; nothing that a decision depends on may live here."""
