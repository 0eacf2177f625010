-- Requests are answered once: what the first answer was is kept beside what it did.

CREATE TABLE idempotency (
    caller       text COLLATE "C" NOT NULL,
    key          text COLLATE "C" NOT NULL,
    customer_id  text COLLATE "C" NOT NULL,
    request_hash bytea NOT NULL,
    answer       bytea NOT NULL,
    recorded_at  timestamptz NOT NULL,
    PRIMARY KEY (caller, key)
);
COMMENT ON TABLE idempotency IS 'Each request that was answered, granted or refused, under the key its caller gave it: answer is msgpack of domain.requests.Answer, given again whenever it is asked again.';
GRANT SELECT, INSERT ON idempotency TO ledger_app;
