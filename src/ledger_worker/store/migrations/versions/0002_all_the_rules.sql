-- What plan changes, roll-over, transfers and merges need beside what there is. Every column has a default that the
-- release before this one can leave as it is.

ALTER TABLE customer
    ADD COLUMN linked   text[] COLLATE "C" NOT NULL DEFAULT '{}',
    ADD COLUMN alias_at timestamptz,
    ADD COLUMN merge_id text COLLATE "C";
COMMENT ON COLUMN customer.linked IS 'The customers that transfers and merges tie this one to: all of them are locked and decided together.';
COMMENT ON COLUMN customer.alias_of IS 'Whom this customer goes on as since alias_at, by the merge merge_id.';

COMMENT ON COLUMN source_owner.customer_id IS 'Of whom the source was first told: that customer keeps its state. Who owns it follows from the facts.';

ALTER TABLE "grant"
    ADD COLUMN parent_id uuid,
    ADD COLUMN short     bigint NOT NULL DEFAULT 0 CONSTRAINT short_is_not_negative CHECK (short >= 0);
COMMENT ON COLUMN "grant".parent_id IS 'The grant its units come from, of a child by roll-over, transfer or regrant.';
COMMENT ON COLUMN "grant".short IS 'Over-allocation: what a change of plan or quantity took back and could not take because it was used.';
ALTER TABLE "grant" DROP CONSTRAINT granted_is_the_amount;
ALTER TABLE "grant" ADD CONSTRAINT granted_is_the_amount
    CHECK (amount IS NULL OR phase = 'void' OR parent_id IS NOT NULL OR granted = amount);
