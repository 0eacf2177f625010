-- How far back usage may lie when it is recorded before its entitlement's policy for late usage decides.

ALTER TABLE ledger
    ADD COLUMN settlement_window_days integer NOT NULL DEFAULT 35 CHECK (settlement_window_days > 0);
