-- Nothing retires a segment of authentication key: it ends when it is used up.
ALTER TABLE "link_auth_segment" DROP COLUMN "retired";
