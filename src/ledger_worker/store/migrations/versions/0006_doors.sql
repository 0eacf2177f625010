-- Who may come in, and who did what: keys of the HTTP API, and the audit log of what people and keys changed.

CREATE TABLE api_key (
    key_id       text COLLATE "C" PRIMARY KEY,
    name         text COLLATE "C" NOT NULL,
    roles        text[]           NOT NULL CHECK (cardinality(roles) > 0),
    secret_hash  bytea            NOT NULL CHECK (octet_length(secret_hash) = 32),
    created_at   timestamptz      NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
COMMENT ON TABLE api_key IS 'Keys of the HTTP API: of the secret only its SHA-256. A key that was rotated expires when its overlap is over; none is ever deleted.';
CREATE INDEX api_key_name ON api_key (name);
GRANT SELECT, INSERT ON api_key TO ledger_app;
GRANT UPDATE (expires_at, revoked_at, last_used_at) ON api_key TO ledger_app;

CREATE TABLE audit (
    audit_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz      NOT NULL,
    actor       text COLLATE "C" NOT NULL CHECK (actor <> ''),
    action      text COLLATE "C" NOT NULL,
    subject     text COLLATE "C" NOT NULL,
    note        text             NOT NULL,
    request_id  text COLLATE "C",
    before      jsonb,
    after       jsonb
);
COMMENT ON TABLE audit IS 'What people and keys changed beside the events: who, what, why, and how it was before and is after. Append-only.';
CREATE INDEX audit_subject ON audit (subject, audit_id);
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();
GRANT SELECT, INSERT ON audit TO ledger_app;
