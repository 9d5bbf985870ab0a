export default {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  // npm run test:chaos, npm run test:power-cut, npm run test:bb84
  testPathIgnorePatterns: ['/node_modules/', '\\.chaos\\.test\\.ts$', '/power-cut\\.test\\.ts$', '<rootDir>/test/bb84-long/'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript', decorators: true }, target: 'es2024' }, module: { type: 'es6' } },
    ],
  },
  globalSetup: '<rootDir>/test/setup/start-stack.ts',
  globalTeardown: '<rootDir>/test/setup/stop-stack.ts',
  testTimeout: 300_000,
  maxWorkers: 2,
}
