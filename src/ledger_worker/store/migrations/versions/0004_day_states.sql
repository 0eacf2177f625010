-- Settling again need not begin at nothing: how accounts stood at the end of days, and what finds the rest.

CREATE TABLE day_state (
    customer_id text COLLATE "C" NOT NULL,
    entitlement text COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL,
    posting     bigint NOT NULL,
    state       bytea NOT NULL,
    PRIMARY KEY (customer_id, entitlement, at)
);
COMMENT ON TABLE day_state IS 'How an account stood when everything up to and including at had happened: msgpack of domain.ledger.DayState. Late facts settle again from the newest one before what they touch; it may be deleted at any time.';
GRANT SELECT, INSERT, DELETE ON day_state TO ledger_app;

ALTER TABLE account
    ADD COLUMN stated_until timestamptz,
    ADD COLUMN since_state  integer NOT NULL DEFAULT 0 CONSTRAINT since_state_is_not_negative CHECK (since_state >= 0);
COMMENT ON COLUMN account.stated_until IS 'No day state of the account is of a later instant.';
COMMENT ON COLUMN account.since_state IS 'Usages booked since the newest day state; once there are enough, the next day keeps one.';

CREATE INDEX event_counted ON event (customer_id, entitlement, counted_at) WHERE type = 'UsageRecorded';
CREATE INDEX event_reversal ON event (customer_id, entitlement) WHERE type = 'UsageReversed';
