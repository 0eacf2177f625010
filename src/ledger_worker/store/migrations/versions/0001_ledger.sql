-- The ledger's first tables. Every table that grows is keyed by customer first; no foreign key crosses customers.
-- Ids and keys compare as bytes (COLLATE "C"), so that Python, SQL and the lock order agree.
-- Run by the owner of the schema; the service itself works as the role ledger_app, which owns nothing.

CREATE TABLE ledger (
    singleton         boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    timeline          integer NOT NULL DEFAULT 1 CHECK (timeline > 0),
    catalogue_version integer NOT NULL DEFAULT 0,
    lanes             integer NOT NULL CHECK (lanes > 0),
    usage_kept_days   integer NOT NULL DEFAULT 400 CHECK (usage_kept_days > 0)
);
COMMENT ON TABLE ledger IS 'One row: the timeline of all sequences, the published catalogue, and how many lanes the outbox has.';
INSERT INTO ledger (lanes) VALUES (4);

CREATE TABLE customer (
    customer_id    text COLLATE "C" PRIMARY KEY,
    key_hash       integer NOT NULL CHECK (key_hash >= 0),
    posting_number bigint NOT NULL DEFAULT 0,
    sequence       bigint NOT NULL DEFAULT 0,
    chain_head     bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    recorded_at    timestamptz,
    is_parked      boolean NOT NULL DEFAULT false,
    parked_reason  text,
    alias_of       text COLLATE "C"
) WITH (fillfactor = 70);
COMMENT ON TABLE customer IS 'The lock row: whoever changes anything of a customer holds it. key_hash is murmur2 of the id, so lane = key_hash % lanes.';

CREATE TABLE source_owner (
    source_key  text COLLATE "C" PRIMARY KEY,
    customer_id text COLLATE "C" NOT NULL
);
COMMENT ON TABLE source_owner IS 'Who owns an order or subscription: one customer at a time, unique over all.';

CREATE TABLE source (
    customer_id text COLLATE "C" NOT NULL,
    source_key  text COLLATE "C" NOT NULL,
    state       bytea NOT NULL,
    PRIMARY KEY (customer_id, source_key)
);
COMMENT ON TABLE source IS 'The folded state of a source: msgpack of domain.sources.SourceState.';

CREATE TABLE event (
    customer_id    text COLLATE "C" NOT NULL,
    event_key      uuid NOT NULL,
    content_hash   bytea NOT NULL,
    event_source   text COLLATE "C" NOT NULL,
    event_id       text COLLATE "C" NOT NULL,
    type           text COLLATE "C" NOT NULL,
    source_key     text COLLATE "C",
    entitlement    text COLLATE "C",
    units          bigint,
    counted_at     timestamptz,
    source_version bigint,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    outcome        text COLLATE "C" NOT NULL,
    payload        bytea NOT NULL,
    topic          text COLLATE "C",
    partition      integer,
    "offset"       bigint,
    traceparent    text,
    PRIMARY KEY (customer_id, event_key)
) PARTITION BY HASH (customer_id);
COMMENT ON TABLE event IS 'The inbox: every event that was applied or kept, once, with what became of it. customer_id is the customer as sent.';

CREATE TABLE "grant" (
    customer_id   text COLLATE "C" NOT NULL,
    grant_id      uuid NOT NULL,
    entitlement   text COLLATE "C" NOT NULL,
    source_key    text COLLATE "C" NOT NULL,
    amount        bigint,
    effective_at  timestamptz NOT NULL,
    expires_at    timestamptz,
    phase         text COLLATE "C" NOT NULL CONSTRAINT phase_is_known CHECK (phase IN ('pending', 'active', 'ending', 'ended', 'void')),
    set_by        bigint NOT NULL,
    granted       bigint NOT NULL,
    available     bigint NOT NULL CONSTRAINT available_is_not_negative CHECK (available >= 0),
    held          bigint NOT NULL CONSTRAINT held_is_not_negative CHECK (held >= 0),
    used          bigint NOT NULL CONSTRAINT used_is_not_negative CHECK (used >= 0),
    expired       bigint NOT NULL CONSTRAINT expired_is_not_negative CHECK (expired >= 0),
    revoked       bigint NOT NULL CONSTRAINT revoked_is_not_negative CHECK (revoked >= 0),
    moved         bigint NOT NULL CONSTRAINT moved_is_not_negative CHECK (moved >= 0),
    terms         bytea NOT NULL,
    PRIMARY KEY (customer_id, grant_id),
    CONSTRAINT units_of_a_grant_are_conserved
        CHECK (amount IS NULL OR granted = available + held + used + expired + revoked + moved),
    CONSTRAINT granted_is_the_amount CHECK (amount IS NULL OR phase = 'void' OR granted = amount)
) WITH (fillfactor = 70);
COMMENT ON TABLE "grant" IS 'Each grant with where its units are now; terms is msgpack of domain.ledger.GrantTerms. A void grant was undone by a correction.';
CREATE INDEX grant_open ON "grant" (customer_id, entitlement) WHERE phase IN ('pending', 'active', 'ending');

CREATE TABLE account (
    customer_id        text COLLATE "C" NOT NULL,
    entitlement        text COLLATE "C" NOT NULL,
    usage              bigint NOT NULL,
    used_total         bigint NOT NULL CONSTRAINT used_total_is_not_negative CHECK (used_total >= 0),
    overage            bigint NOT NULL CONSTRAINT overage_is_not_negative CHECK (overage >= 0),
    debt               bigint NOT NULL CONSTRAINT debt_is_not_negative CHECK (debt >= 0),
    forgiven           bigint NOT NULL CONSTRAINT forgiven_is_not_negative CHECK (forgiven >= 0),
    settled_at         timestamptz,
    settled_tie        text COLLATE "C" NOT NULL DEFAULT '',
    carried            bytea,
    last_end           timestamptz,
    level              integer,
    allowance          bigint,
    used               bigint NOT NULL,
    held               bigint NOT NULL,
    next_transition_at timestamptz,
    PRIMARY KEY (customer_id, entitlement),
    CONSTRAINT usage_of_an_account_is_conserved CHECK (usage = used_total + overage + debt + forgiven)
) WITH (fillfactor = 70);
COMMENT ON TABLE account IS 'One customer and entitlement: usage over its life, how far it is settled, and what a check reads (limit as allowance, used, held).';
CREATE INDEX account_due ON account (next_transition_at) WHERE next_transition_at IS NOT NULL;

CREATE TABLE posting (
    customer_id       text COLLATE "C" NOT NULL,
    number            bigint NOT NULL,
    event_key         uuid NOT NULL,
    told_to           text COLLATE "C",
    content_hash      bytea NOT NULL,
    recorded_at       timestamptz NOT NULL,
    catalogue_version integer NOT NULL,
    rules_version     integer NOT NULL,
    hash              bytea NOT NULL,
    PRIMARY KEY (customer_id, number)
) PARTITION BY HASH (customer_id);
COMMENT ON TABLE posting IS 'What one event did to one customer: the links of its hash chain, numbered from 1 without a gap.';

CREATE TABLE entry (
    customer_id text COLLATE "C" NOT NULL,
    posting     bigint NOT NULL,
    line        integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    entitlement text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    units       bigint NOT NULL,
    at          timestamptz NOT NULL,
    grant_id    uuid,
    usage_key   uuid,
    cut_id      text COLLATE "C",
    terms       jsonb,
    PRIMARY KEY (customer_id, posting, line, recorded_at)
) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE entry IS 'The lines of a posting, signed and append-only; at is the instant a line speaks of or corrects.';

DO $$
BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE format('CREATE TABLE event_%s PARTITION OF event FOR VALUES WITH (MODULUS 8, REMAINDER %s)', i, i);
        EXECUTE format('CREATE TABLE posting_%s PARTITION OF posting FOR VALUES WITH (MODULUS 8, REMAINDER %s)', i, i);
    END LOOP;
END $$;

CREATE TABLE entry_default PARTITION OF entry DEFAULT;

CREATE FUNCTION make_entry_partitions(from_month date, months integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    month date;
    made  integer := 0;
BEGIN
    FOR i IN 0..months - 1 LOOP
        month := (date_trunc('month', from_month) + make_interval(months => i))::date;
        IF to_regclass(format('entry_%s', to_char(month, 'YYYY_MM'))) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE entry_%s PARTITION OF entry FOR VALUES FROM (%L) TO (%L)',
                to_char(month, 'YYYY_MM'),
                month::timestamp AT TIME ZONE 'UTC',
                (month + interval '1 month')::timestamp AT TIME ZONE 'UTC'
            );
            EXECUTE format(
                'CREATE TRIGGER entry_is_not_emptied BEFORE TRUNCATE ON entry_%s '
                'FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite()',
                to_char(month, 'YYYY_MM')
            );
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION make_entry_partitions IS 'Creates the month partitions of entry that are missing; returns how many it made.';

CREATE FUNCTION refuse_to_rewrite() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the ledger is append-only, a correction is a new posting', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER posting_is_append_only BEFORE UPDATE OR DELETE ON posting
    FOR EACH ROW EXECUTE FUNCTION refuse_to_rewrite();
CREATE TRIGGER entry_is_append_only BEFORE UPDATE OR DELETE ON entry
    FOR EACH ROW EXECUTE FUNCTION refuse_to_rewrite();
CREATE TRIGGER posting_is_not_emptied BEFORE TRUNCATE ON posting
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();
CREATE TRIGGER entry_is_not_emptied BEFORE TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();
-- Partitions inherit triggers for rows but not for statements, and each can be truncated by itself.
CREATE TRIGGER entry_is_not_emptied BEFORE TRUNCATE ON entry_default
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();
DO $$
BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE format(
            'CREATE TRIGGER posting_is_not_emptied BEFORE TRUNCATE ON posting_%s '
            'FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite()',
            i
        );
    END LOOP;
END $$;
SELECT make_entry_partitions(CURRENT_DATE, 13);

CREATE TABLE outbox (
    outbox_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane           integer NOT NULL,
    customer_id    text COLLATE "C",
    timeline       integer,
    sequence       bigint,
    change_id      uuid,
    dead_letter_id uuid,
    payload        bytea,
    ce_type        text COLLATE "C",
    traceparent    text,
    recorded_at    timestamptz NOT NULL,
    CONSTRAINT a_row_is_a_change_or_a_dead_letter CHECK ((change_id IS NULL) <> (dead_letter_id IS NULL)),
    CONSTRAINT a_change_is_whole
        CHECK (change_id IS NULL OR num_nulls(customer_id, timeline, sequence, payload, ce_type) = 0)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE outbox IS 'What is to be published: changes on the lane of their customer, dead letters on lane -1. Deleted once Kafka has them.';
CREATE INDEX outbox_lane ON outbox (lane, outbox_id);

CREATE TABLE lane (
    lane         integer PRIMARY KEY,
    owner        text COLLATE "C",
    owner_epoch  bigint NOT NULL DEFAULT 0,
    leased_until timestamptz
);
COMMENT ON TABLE lane IS 'Who publishes a lane now; -1 is the lane of dead letters.';
INSERT INTO lane (lane) SELECT generate_series(-1, 3);

CREATE TABLE relay (
    owner       text COLLATE "C" PRIMARY KEY,
    alive_until timestamptz NOT NULL
);
COMMENT ON TABLE relay IS 'Which relays there are, so that each takes its fair share of the lanes; one that says nothing more drops out.';

CREATE TABLE dead_letter (
    dead_letter_id   uuid PRIMARY KEY,
    reason           text COLLATE "C" NOT NULL,
    message          text NOT NULL,
    topic            text COLLATE "C" NOT NULL,
    topic_id         text COLLATE "C" NOT NULL,
    partition        integer NOT NULL,
    "offset"         bigint NOT NULL,
    record_timestamp timestamptz,
    key              bytea,
    value            bytea,
    headers          bytea NOT NULL,
    customer_id      text COLLATE "C",
    event_source     text COLLATE "C",
    event_id         text COLLATE "C",
    failed_at        timestamptz NOT NULL,
    resolved_at      timestamptz
);
COMMENT ON TABLE dead_letter IS 'Records that could not be applied, byte for byte; headers is msgpack of a list of (name, bytes).';
CREATE INDEX dead_letter_open ON dead_letter (failed_at) WHERE resolved_at IS NULL;

CREATE TABLE input_partition (
    topic         text COLLATE "C" NOT NULL,
    partition     integer NOT NULL,
    topic_id      text COLLATE "C" NOT NULL,
    next_offset   bigint NOT NULL,
    owner_epoch   bigint NOT NULL DEFAULT 0,
    owner         text COLLATE "C",
    is_halted     boolean NOT NULL DEFAULT false,
    halted_reason text,
    records       bigint NOT NULL DEFAULT 0,
    duplicates    bigint NOT NULL DEFAULT 0,
    dead_letters  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE input_partition IS 'The committed offset and the fence of each input partition, and how many records came of it.';

CREATE TABLE entitlement (
    key          text COLLATE "C" NOT NULL,
    version      integer NOT NULL,
    definition   jsonb NOT NULL,
    published_at timestamptz NOT NULL,
    catalogue_version integer NOT NULL,
    PRIMARY KEY (key, version)
);
CREATE TABLE offer (
    sku          text COLLATE "C" NOT NULL,
    version      integer NOT NULL,
    definition   jsonb NOT NULL,
    published_at timestamptz NOT NULL,
    catalogue_version integer NOT NULL,
    PRIMARY KEY (sku, version)
);
COMMENT ON TABLE entitlement IS 'Immutable versions of catalogue entries: definition is domain.catalogue.Entitlement.';
COMMENT ON TABLE offer IS 'Immutable versions of offers: definition is domain.catalogue.Offer.';
CREATE TRIGGER entitlement_is_immutable BEFORE UPDATE OR DELETE ON entitlement
    FOR EACH ROW EXECUTE FUNCTION refuse_to_rewrite();
CREATE TRIGGER offer_is_immutable BEFORE UPDATE OR DELETE ON offer
    FOR EACH ROW EXECUTE FUNCTION refuse_to_rewrite();

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger_app') THEN
        CREATE ROLE ledger_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server made the role at the same moment
END $$;
GRANT USAGE ON SCHEMA public TO ledger_app;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO ledger_app;
GRANT INSERT ON event, posting, entry, entitlement, offer, "grant", account, customer, source, source_owner,
    outbox, dead_letter, input_partition TO ledger_app;
GRANT UPDATE ON "grant", account, customer, source, source_owner, dead_letter, input_partition, lane, ledger TO ledger_app;
GRANT DELETE ON outbox TO ledger_app;
GRANT INSERT, UPDATE, DELETE ON relay TO ledger_app;
