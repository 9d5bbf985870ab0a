-- One KME's tables. See schema.prisma for what each column means.

CREATE TABLE "custody_term" (
    "term" INTEGER NOT NULL,
    "kdf_salt" BYTEA NOT NULL,
    "kdf_memory_kib" INTEGER NOT NULL,
    "kdf_passes" INTEGER NOT NULL,
    "check_value" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "custody_term_pkey" PRIMARY KEY ("term")
);

CREATE TABLE "key_block" (
    "block_id" UUID NOT NULL,
    "link_id" TEXT NOT NULL,
    "device_block" TEXT NOT NULL,
    "peer_kme_id" TEXT NOT NULL,
    "state" TEXT NOT NULL,
    "unit_count" INTEGER NOT NULL,
    "unit_size_bits" INTEGER NOT NULL,
    "mine" VARBIT NOT NULL,
    "taken" VARBIT NOT NULL,
    "done" VARBIT NOT NULL,
    "sealed" BYTEA,
    "sealed_tag_key" BYTEA,
    "wrapped_dek" BYTEA,
    "term" INTEGER NOT NULL,
    "generation" INTEGER NOT NULL DEFAULT 0,
    "ingested_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "ended_at" TIMESTAMPTZ(3),

    CONSTRAINT "key_block_pkey" PRIMARY KEY ("block_id")
) WITH (fillfactor = 50);

-- Ciphertext does not compress; EXTERNAL lets one unit be read without the rest of its block.
ALTER TABLE "key_block" ALTER COLUMN "sealed" SET STORAGE EXTERNAL;
ALTER TABLE "key_block" ADD CONSTRAINT "key_block_state" CHECK ("state" IN ('INGESTED', 'AVAILABLE', 'QUARANTINED', 'DESTROYED'));
ALTER TABLE "key_block" ADD CONSTRAINT "key_block_destroyed_is_empty"
    CHECK ("state" <> 'DESTROYED' OR ("sealed" IS NULL AND "sealed_tag_key" IS NULL AND "wrapped_dek" IS NULL));

CREATE TABLE "reservation" (
    "aid" UUID NOT NULL,
    "peer_kme_id" TEXT NOT NULL,
    "state" TEXT NOT NULL,
    "claimed_by" UUID NOT NULL,
    "units" JSONB NOT NULL,
    "claimed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "reservation_pkey" PRIMARY KEY ("aid")
);

ALTER TABLE "reservation" ADD CONSTRAINT "reservation_state" CHECK ("state" IN ('RESERVED', 'ABORTING', 'BURNT'));

CREATE TABLE "assignment" (
    "aid" UUID NOT NULL,
    "role" TEXT NOT NULL,
    "peer_kme_id" TEXT NOT NULL,
    "state" TEXT NOT NULL,
    "master_sae_id" TEXT NOT NULL,
    "slave_sae_ids" TEXT[],
    "size_bits" INTEGER NOT NULL,
    "key_count" INTEGER NOT NULL,
    "units" JSONB NOT NULL,
    "fetched" VARBIT NOT NULL,
    "request_id" UUID,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "ended_at" TIMESTAMPTZ(3),

    CONSTRAINT "assignment_pkey" PRIMARY KEY ("aid")
) WITH (fillfactor = 80);

ALTER TABLE "assignment" ADD CONSTRAINT "assignment_role" CHECK ("role" IN ('issuer', 'holder', 'local'));
ALTER TABLE "assignment" ADD CONSTRAINT "assignment_state"
    CHECK ("state" IN ('ISSUED', 'DELIVERED', 'EXPIRED', 'REVOKED', 'VOIDED'));

CREATE TABLE "assigned_key" (
    "key_id" UUID NOT NULL,
    "aid" UUID NOT NULL,
    "position" SMALLINT NOT NULL,

    CONSTRAINT "assigned_key_pkey" PRIMARY KEY ("key_id")
);

CREATE TABLE "loan" (
    "loan_id" UUID NOT NULL,
    "peer_kme_id" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    "state" TEXT NOT NULL,
    "units" JSONB NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "loan_pkey" PRIMARY KEY ("loan_id")
);

ALTER TABLE "loan" ADD CONSTRAINT "loan_role" CHECK ("role" IN ('lender', 'borrower'));
ALTER TABLE "loan" ADD CONSTRAINT "loan_state" CHECK ("state" IN ('OPEN', 'DONE'));

CREATE TABLE "audit_record" (
    "seq" BIGSERIAL NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "event" TEXT NOT NULL,
    "actor" TEXT NOT NULL,
    "outcome" TEXT NOT NULL,
    "subject" JSONB NOT NULL,

    CONSTRAINT "audit_record_pkey" PRIMARY KEY ("seq")
);

CREATE TABLE "sae" (
    "sae_id" TEXT NOT NULL,
    "kme_id" TEXT NOT NULL,
    "enabled" BOOLEAN NOT NULL DEFAULT true,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "sae_pkey" PRIMARY KEY ("sae_id")
);

CREATE TABLE "sae_pair" (
    "sae_a" TEXT NOT NULL,
    "sae_b" TEXT NOT NULL,

    CONSTRAINT "sae_pair_pkey" PRIMARY KEY ("sae_a", "sae_b")
);

CREATE UNIQUE INDEX "key_block_link_id_device_block_key" ON "key_block"("link_id", "device_block");
CREATE INDEX "key_block_state_link_id_idx" ON "key_block"("state", "link_id");
CREATE UNIQUE INDEX "assignment_master_sae_id_request_id_key" ON "assignment"("master_sae_id", "request_id");
-- Only what still waits: upkeep costs the same however long the history is.
CREATE INDEX "assignment_waiting_idx" ON "assignment"("expires_at") WHERE "ended_at" IS NULL;
ALTER TABLE "sae_pair" ADD CONSTRAINT "sae_pair_sae_a_fkey" FOREIGN KEY ("sae_a") REFERENCES "sae"("sae_id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "sae_pair" ADD CONSTRAINT "sae_pair_sae_b_fkey" FOREIGN KEY ("sae_b") REFERENCES "sae"("sae_id") ON DELETE CASCADE ON UPDATE CASCADE;

-- Lets one statement check its own row counts: false rolls the whole statement back.
CREATE FUNCTION "must"(condition BOOLEAN, what TEXT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
BEGIN
    IF condition IS NOT TRUE THEN
        RAISE EXCEPTION 'row count check failed: %', what USING ERRCODE = 'KM001';
    END IF;
    RETURN TRUE;
END
$$;

-- The history of a key is written once: who it was issued to never changes, and no audit record is edited or removed.
CREATE FUNCTION "refuse_change"() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is not allowed', TG_OP, TG_TABLE_NAME USING ERRCODE = 'KM002';
END
$$;

CREATE TRIGGER "audit_record_is_append_only" BEFORE UPDATE OR DELETE OR TRUNCATE ON "audit_record"
    FOR EACH STATEMENT EXECUTE FUNCTION "refuse_change"();
CREATE TRIGGER "assignment_parties_are_fixed"
    BEFORE UPDATE OF "master_sae_id", "slave_sae_ids", "peer_kme_id", "size_bits", "key_count", "role" ON "assignment"
    FOR EACH ROW EXECUTE FUNCTION "refuse_change"();

-- Legal moves between states, as in src/key-store/key-states.ts.
CREATE FUNCTION "refuse_illegal_move"() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (OLD."state" || '>' || NEW."state" = ANY (TG_ARGV)) THEN
        RAISE EXCEPTION 'a % cannot go from % to %', TG_TABLE_NAME, OLD."state", NEW."state" USING ERRCODE = 'KM003';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER "key_block_moves" BEFORE UPDATE ON "key_block" FOR EACH ROW WHEN (OLD."state" <> NEW."state")
    EXECUTE FUNCTION "refuse_illegal_move"(
        'INGESTED>AVAILABLE', 'INGESTED>QUARANTINED', 'INGESTED>DESTROYED',
        'AVAILABLE>QUARANTINED', 'AVAILABLE>DESTROYED', 'QUARANTINED>DESTROYED');
CREATE TRIGGER "reservation_moves" BEFORE UPDATE ON "reservation" FOR EACH ROW WHEN (OLD."state" <> NEW."state")
    EXECUTE FUNCTION "refuse_illegal_move"('RESERVED>ABORTING', 'RESERVED>BURNT', 'ABORTING>BURNT');
CREATE TRIGGER "assignment_moves" BEFORE UPDATE ON "assignment" FOR EACH ROW WHEN (OLD."state" <> NEW."state")
    EXECUTE FUNCTION "refuse_illegal_move"('ISSUED>DELIVERED', 'ISSUED>EXPIRED', 'ISSUED>REVOKED', 'ISSUED>VOIDED');

-- What was fetched or used up stays so.
CREATE FUNCTION "refuse_undoing"() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was used once cannot be made new' USING ERRCODE = 'KM003';
END
$$;

CREATE TRIGGER "key_block_done_stays" BEFORE UPDATE ON "key_block" FOR EACH ROW
    WHEN (OLD."done" IS DISTINCT FROM NEW."done" AND bit_count(OLD."done" & ~NEW."done") > 0)
    EXECUTE FUNCTION "refuse_undoing"();
CREATE TRIGGER "assignment_fetched_stays" BEFORE UPDATE ON "assignment" FOR EACH ROW
    WHEN (OLD."fetched" IS DISTINCT FROM NEW."fetched" AND bit_count(OLD."fetched" & ~NEW."fetched") > 0)
    EXECUTE FUNCTION "refuse_undoing"();
