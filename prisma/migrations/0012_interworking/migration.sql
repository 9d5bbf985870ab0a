-- Keys exchanged with KMEs of other networks at this site (ETSI GS QKD 020). Keys received live as assignments; see schema.prisma.

CREATE TABLE "sent_key" (
    "key_id" UUID NOT NULL,
    "aid" UUID NOT NULL,
    "neighbour" TEXT NOT NULL,
    "initiator_sae_id" TEXT NOT NULL,
    "target_sae_ids" TEXT[],
    "state" TEXT NOT NULL,
    "void_answer" TEXT,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "sent_key_pkey" PRIMARY KEY ("key_id")
);

ALTER TABLE "sent_key" ADD CONSTRAINT "sent_key_state"
    CHECK ("state" IN ('SENT', 'RELAYED', 'FAILED', 'REFUSED', 'ISSUED', 'VOIDED'));

CREATE INDEX "sent_key_aid_idx" ON "sent_key"("aid");
CREATE INDEX "sent_key_expires_at_idx" ON "sent_key"("expires_at");

CREATE TRIGGER "sent_key_moves" BEFORE UPDATE ON "sent_key" FOR EACH ROW WHEN (OLD."state" <> NEW."state")
    EXECUTE FUNCTION "refuse_illegal_move"(
        'SENT>RELAYED', 'SENT>FAILED', 'SENT>REFUSED', 'SENT>VOIDED',
        'RELAYED>ISSUED', 'RELAYED>VOIDED', 'FAILED>VOIDED', 'ISSUED>VOIDED');
CREATE TRIGGER "sent_key_is_told" AFTER UPDATE ON "sent_key"
    FOR EACH STATEMENT EXECUTE FUNCTION "tell_of_change"();

CREATE TABLE "neighbour_message" (
    "id" UUID NOT NULL,
    "neighbour" TEXT NOT NULL,
    "kind" TEXT NOT NULL,
    "body" JSONB NOT NULL,
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "next_attempt_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "neighbour_message_pkey" PRIMARY KEY ("id")
);

ALTER TABLE "neighbour_message" ADD CONSTRAINT "neighbour_message_kind" CHECK ("kind" IN ('ack', 'void'));

CREATE INDEX "neighbour_message_next_attempt_at_idx" ON "neighbour_message"("next_attempt_at");
