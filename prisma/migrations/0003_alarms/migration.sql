-- Alarms of this KME, and what webhooks must still be told of them.
CREATE TABLE "alarm" (
    "name" TEXT NOT NULL,
    "severity" TEXT NOT NULL,
    "text" TEXT NOT NULL,
    "subject" JSONB NOT NULL,
    "raised_at" TIMESTAMPTZ(3) NOT NULL,
    "cleared_at" TIMESTAMPTZ(3),

    CONSTRAINT "alarm_pkey" PRIMARY KEY ("name")
);

ALTER TABLE "alarm" ADD CONSTRAINT "alarm_severity" CHECK ("severity" IN ('warning', 'critical'));

CREATE TABLE "alarm_notice" (
    "id" UUID NOT NULL,
    "seq" BIGSERIAL NOT NULL,
    "alarm" TEXT NOT NULL,
    "event" TEXT NOT NULL,
    "webhook" TEXT NOT NULL,
    "body" TEXT NOT NULL,
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "next_attempt_at" TIMESTAMPTZ(3) NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "alarm_notice_pkey" PRIMARY KEY ("id")
);

ALTER TABLE "alarm_notice" ADD CONSTRAINT "alarm_notice_event" CHECK ("event" IN ('raised', 'cleared'));

CREATE INDEX "alarm_cleared_at_idx" ON "alarm"("cleared_at");
CREATE INDEX "alarm_notice_webhook_alarm_seq_idx" ON "alarm_notice"("webhook", "alarm", "seq");
CREATE INDEX "alarm_notice_alarm_idx" ON "alarm_notice"("alarm");
