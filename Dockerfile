# One KME, or any other `kme` command. Two stages: generating the Prisma client needs development packages, running does not.
FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY . .
RUN npm run generate:prisma

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# No embedded PostgreSQL and no second Node.js: the image has one, and DATABASE_URL names the other.
RUN npm ci --omit=dev --omit=optional --ignore-scripts && npm cache clean --force
COPY . .
COPY --from=build /app/src/generated/prisma src/generated/prisma
RUN mkdir /data && chown node:node /data
USER node
VOLUME /data
WORKDIR /data
# Node.js handles SIGTERM itself, but does not reap processes: run with an init (`docker run --init`, `init: true`).
ENTRYPOINT ["node", "/app/bin/kme.js"]
CMD ["--help"]
