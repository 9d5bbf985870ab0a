-- Several processes of one KME on one database: who is alive, who does what, and word of changes. See schema.prisma.

CREATE TABLE "kme_process" (
    "process_id" UUID NOT NULL,
    "host" TEXT NOT NULL,
    "pid" INTEGER NOT NULL,
    "started_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "kme_process_pkey" PRIMARY KEY ("process_id")
) WITH (fillfactor = 50);

CREATE TABLE "duty" (
    "name" TEXT NOT NULL,
    "process_id" UUID NOT NULL,
    "until" TIMESTAMPTZ(3) NOT NULL,
    "report" JSONB,
    "reported_at" TIMESTAMPTZ(3),

    CONSTRAINT "duty_pkey" PRIMARY KEY ("name")
) WITH (fillfactor = 50);

CREATE TABLE "figure" (
    "name" TEXT NOT NULL,
    "total" DOUBLE PRECISION NOT NULL,
    "changed_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "figure_pkey" PRIMARY KEY ("name")
) WITH (fillfactor = 50);

-- Loans still asked for are looked for all the time, however many there have been.
CREATE INDEX "loan_open_idx" ON "loan"("at") WHERE "state" = 'OPEN';

-- Tells every process at once that it should look again. The payload is the name of the table.
CREATE FUNCTION "tell_of_change"() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('kme_changes', TG_TABLE_NAME);
    RETURN NULL;
END
$$;

CREATE TRIGGER "sae_is_told" AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "sae"
    FOR EACH STATEMENT EXECUTE FUNCTION "tell_of_change"();
CREATE TRIGGER "sae_pair_is_told" AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "sae_pair"
    FOR EACH STATEMENT EXECUTE FUNCTION "tell_of_change"();
