-- A key for SAEs at several KMEs claims units of several pools under one assignment ID, one reservation per KME.
ALTER TABLE "reservation" DROP CONSTRAINT "reservation_pkey";
ALTER TABLE "reservation" ADD CONSTRAINT "reservation_pkey" PRIMARY KEY ("aid", "peer_kme_id");
-- Its units cover the key on the way to that KME: a one-time pad, which is never free again once it was used.
ALTER TABLE "reservation" ADD COLUMN "pad" BOOLEAN NOT NULL DEFAULT false;

-- Such a key at the KME that holds it: the units of the assignment XOR the difference are the key. Sealed under a data key of its own.
ALTER TABLE "assignment" ADD COLUMN "difference" BYTEA;
ALTER TABLE "assignment" ADD COLUMN "difference_dek" BYTEA;
ALTER TABLE "assignment" ADD COLUMN "difference_term" INTEGER;
ALTER TABLE "assignment" ADD CONSTRAINT "assignment_difference_is_whole"
    CHECK (num_nulls("difference", "difference_dek", "difference_term") IN (0, 3));
ALTER TABLE "assignment" ADD CONSTRAINT "assignment_ended_has_no_difference" CHECK ("state" = 'ISSUED' OR "difference" IS NULL);
