-- Sessions that peer KMEs opened here. Sequence numbers up to the mark are used up, whatever a process remembers.
CREATE TABLE "peer_session" (
    "session_id" UUID NOT NULL,
    "peer_kme_id" TEXT NOT NULL,
    "process_id" UUID NOT NULL,
    "reserved_sequence" BIGINT NOT NULL,
    "with_qkd_key" BOOLEAN NOT NULL,
    "opened_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "ended_at" TIMESTAMPTZ(3),

    CONSTRAINT "peer_session_pkey" PRIMARY KEY ("session_id")
);

CREATE INDEX "peer_session_opened_at_idx" ON "peer_session"("opened_at");

-- Certificates of peer KMEs that an operator compared with the other site. A withdrawn one keeps its row: from the first approval on,
-- a peer needs an approved certificate.
CREATE TABLE "peer_certificate" (
    "peer_kme_id" TEXT NOT NULL,
    "fingerprint" TEXT NOT NULL,
    "approved" BOOLEAN NOT NULL,
    "changed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "peer_certificate_pkey" PRIMARY KEY ("peer_kme_id", "fingerprint")
);

-- How often an operator asked for new session keys with a peer.
CREATE TABLE "peer_rekey" (
    "peer_kme_id" TEXT NOT NULL,
    "generation" INTEGER NOT NULL,

    CONSTRAINT "peer_rekey_pkey" PRIMARY KEY ("peer_kme_id")
);

CREATE TRIGGER "peer_certificate_is_told" AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "peer_certificate"
    FOR EACH STATEMENT EXECUTE FUNCTION "tell_of_change"();
CREATE TRIGGER "peer_rekey_is_told" AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "peer_rekey"
    FOR EACH STATEMENT EXECUTE FUNCTION "tell_of_change"();
