-- What each KME of the network last stated of its QKD links, as it was signed. The sequence of a row only grows.
CREATE TABLE "topology_statement" (
    "kme_id" TEXT NOT NULL,
    "sequence" BIGINT NOT NULL,
    "signed" JSONB NOT NULL,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "topology_statement_pkey" PRIMARY KEY ("kme_id")
);

ALTER TABLE "topology_statement" ADD CONSTRAINT "topology_statement_sequence" CHECK ("sequence" > 0);
