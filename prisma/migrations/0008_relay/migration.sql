-- One-time pads of relayed blocks: link key that encrypted one message and never encrypts another. `in` came from a peer, `out` went to one.
CREATE TABLE "relay_pad" (
    "relay_id" UUID NOT NULL,
    "side" TEXT NOT NULL,
    "peer_kme_id" TEXT NOT NULL,
    "state" TEXT NOT NULL,
    "units" JSONB NOT NULL,
    "digest" BYTEA,
    "message" JSONB,
    "answer" JSONB,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    -- A relay passes a KME once.
    CONSTRAINT "relay_pad_pkey" PRIMARY KEY ("relay_id", "side")
);

ALTER TABLE "relay_pad" ADD CONSTRAINT "relay_pad_side" CHECK ("side" IN ('in', 'out'));
ALTER TABLE "relay_pad" ADD CONSTRAINT "relay_pad_state" CHECK ("state" IN ('OPEN', 'CLOSED'));
-- What is over keeps no ciphertext.
ALTER TABLE "relay_pad" ADD CONSTRAINT "relay_pad_closed_is_empty" CHECK ("state" = 'OPEN' OR "message" IS NULL);

CREATE INDEX "relay_pad_at_idx" ON "relay_pad"("at");

-- Whose message, under which pad, and what it said are written once.
CREATE TRIGGER "relay_pad_is_fixed" BEFORE UPDATE OF "relay_id", "side", "peer_kme_id", "units", "digest" ON "relay_pad"
    FOR EACH ROW EXECUTE FUNCTION "refuse_change"();
CREATE TRIGGER "relay_pad_moves" BEFORE UPDATE ON "relay_pad" FOR EACH ROW WHEN (OLD."state" <> NEW."state")
    EXECUTE FUNCTION "refuse_illegal_move"('OPEN>CLOSED');
CREATE FUNCTION "refuse_second_message"() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a one-time pad encrypts one message, and is answered once' USING ERRCODE = 'KM003';
END
$$;
CREATE TRIGGER "relay_pad_encrypts_once" BEFORE UPDATE ON "relay_pad" FOR EACH ROW
    WHEN ((NEW."message" IS NOT NULL AND NEW."message" IS DISTINCT FROM OLD."message")
       OR (OLD."answer" IS NOT NULL AND NEW."answer" IS DISTINCT FROM OLD."answer"))
    EXECUTE FUNCTION "refuse_second_message"();

-- How a relayed block came here is written once.
ALTER TABLE "key_block" ADD COLUMN "relayed" JSONB;
CREATE TRIGGER "key_block_relayed_is_fixed" BEFORE UPDATE OF "relayed" ON "key_block"
    FOR EACH ROW EXECUTE FUNCTION "refuse_change"();
