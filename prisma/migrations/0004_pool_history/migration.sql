-- Levels and flows of the key pools in buckets of 10 s and of 10 minutes, for plots.
CREATE TABLE "pool_history" (
    "peer_kme_id" TEXT NOT NULL,
    "width_s" INTEGER NOT NULL,
    "from_at" TIMESTAMPTZ(3) NOT NULL,
    "mine_min" INTEGER NOT NULL,
    "mine_last" INTEGER NOT NULL,
    "theirs_min" INTEGER NOT NULL,
    "theirs_last" INTEGER NOT NULL,
    "offered" BIGINT NOT NULL,
    "taken" BIGINT NOT NULL,
    "refused" BIGINT NOT NULL,

    CONSTRAINT "pool_history_pkey" PRIMARY KEY ("peer_kme_id", "width_s", "from_at")
);
CREATE INDEX "pool_history_width_s_from_at_idx" ON "pool_history"("width_s", "from_at");

-- Where the writer of the history stood: it counts on from here, also after a restart.
CREATE TABLE "pool_record" (
    "peer_kme_id" TEXT NOT NULL,
    "state" TEXT NOT NULL,
    "offered_total" BIGINT NOT NULL,
    "taken_total" BIGINT NOT NULL,
    "refused_total" BIGINT NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "pool_record_pkey" PRIMARY KEY ("peer_kme_id")
);

-- Pools an operator wants filled, for all processes to see.
CREATE TABLE "pool_replenishment" (
    "peer_kme_id" TEXT NOT NULL,
    "request_id" UUID NOT NULL,
    "ceiling_keys" INTEGER NOT NULL,
    "asked_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "pool_replenishment_pkey" PRIMARY KEY ("peer_kme_id")
);
