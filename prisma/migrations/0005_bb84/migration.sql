-- The authentication key of QKD links, in segments, sealed. `used_bytes` only grows: what is below it is never handed out again.
CREATE TABLE "link_auth_segment" (
    "name" TEXT NOT NULL,
    "link_id" TEXT NOT NULL,
    "segment_id" TEXT NOT NULL,
    "pre_shared" BOOLEAN NOT NULL,
    "seq" BIGSERIAL NOT NULL,
    "size_bytes" INTEGER NOT NULL,
    "used_bytes" INTEGER NOT NULL,
    "consumed_bytes" INTEGER NOT NULL DEFAULT 0,
    "retired" BOOLEAN NOT NULL DEFAULT false,
    "sealed" BYTEA,
    "wrapped_dek" BYTEA,
    "term" INTEGER NOT NULL,
    "added_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "link_auth_segment_pkey" PRIMARY KEY ("name")
);

ALTER TABLE "link_auth_segment" ADD CONSTRAINT "link_auth_segment_bytes"
  CHECK ("consumed_bytes" >= 0 AND "consumed_bytes" <= "used_bytes" AND "used_bytes" <= "size_bytes");

CREATE UNIQUE INDEX "link_auth_segment_link_id_segment_id_key" ON "link_auth_segment"("link_id", "segment_id");

-- What the segments held that were used up long ago and whose rows are gone.
CREATE TABLE "link_auth_forgotten" (
    "link_id" TEXT NOT NULL,
    "size_bytes" BIGINT NOT NULL,
    "consumed_bytes" BIGINT NOT NULL,

    CONSTRAINT "link_auth_forgotten_pkey" PRIMARY KEY ("link_id")
);

-- What is known of the security of a block, for links that can tell.
ALTER TABLE "key_block" ADD COLUMN "statement" JSONB;

-- The sum of it over the life of a link.
CREATE TABLE "link_security" (
    "link_id" TEXT NOT NULL,
    "blocks" BIGINT NOT NULL,
    "key_bits" BIGINT NOT NULL,
    "epsilon_sum" DOUBLE PRECISION NOT NULL,
    "tag_bits" BIGINT NOT NULL,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "link_security_pkey" PRIMARY KEY ("link_id")
);
