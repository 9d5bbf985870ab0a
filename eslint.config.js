// What types and formatting do not catch. Who may import whom is in .dependency-cruiser.cjs.
import tseslint from 'typescript-eslint'

const CLOCK = 'Take a Clock (src/kernel/clock.ts).'
const RANDOM = 'Take a Random (src/kernel/random.ts).'
const ENVIRONMENT = 'Only src/config and src/cli read the environment.'
const EXIT = 'Set process.exitCode and let the event loop drain.'
// setImmediate waits for no time, only for the turn of the event loop to end.
const TIMERS = ['setTimeout', 'setInterval']
const RANDOM_BYTES = ['randomBytes', 'randomFill', 'randomFillSync', 'randomInt', 'randomUUID']

const banned = {
  clock: { object: 'Date', property: 'now', message: CLOCK },
  performance: { object: 'performance', property: 'now', message: CLOCK },
  random: { object: 'Math', property: 'random', message: RANDOM },
  webRandom: { object: 'crypto', property: 'getRandomValues', message: RANDOM },
  webUuid: { object: 'crypto', property: 'randomUUID', message: RANDOM },
  environment: { object: 'process', property: 'env', message: ENVIRONMENT },
  exit: { object: 'process', property: 'exit', message: EXIT },
}
const { environment, ...everywhere } = banned

const defaultExport = { selector: 'ExportDefaultDeclaration', message: 'Name what you export.' }
const dateWithoutArguments = { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: CLOCK }
const dateCall = { selector: "CallExpression[callee.name='Date']", message: CLOCK }

export default tseslint.config(
  { ignores: ['coverage/', 'src/generated/', '.kme/', '**/*.js', '**/*.cjs'] },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', ignoreRestSiblings: true },
      ],
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-extraneous-class': 'off',
      '@typescript-eslint/no-invalid-void-type': 'off',
      // Does not see that a closure changes a variable while others wait.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      '@typescript-eslint/no-unsafe-enum-assignment': 'off',
      '@typescript-eslint/no-useless-constructor': 'off',
      // Our objects are closures; no method uses `this`.
      '@typescript-eslint/unbound-method': 'off',
      eqeqeq: 'error',
      'no-console': 'error',
      'no-constant-condition': ['error', { checkLoops: false }],
      'no-var': 'error',
      'prefer-const': 'error',
    },
  },
  {
    files: ['src/**/*.ts'],
    rules: {
      'no-restricted-properties': ['error', ...Object.values(banned)],
      'no-restricted-syntax': ['error', defaultExport, dateWithoutArguments, dateCall],
      'no-restricted-globals': ['error', ...TIMERS.map((name) => ({ name, message: CLOCK }))],
      'no-restricted-imports': [
        'error',
        {
          paths: [
            { name: 'node:crypto', importNames: RANDOM_BYTES, message: RANDOM },
            { name: 'node:timers', message: CLOCK },
            { name: 'node:timers/promises', message: CLOCK },
            { name: 'node:process', message: 'Use the global process, which the other rules watch.' },
          ],
        },
      ],
    },
  },
  { files: ['src/config/**', 'src/cli/**'], rules: { 'no-restricted-properties': ['error', ...Object.values(everywhere)] } },
  // A program writes to its terminal; a service writes to its log.
  { files: ['src/cli/**', 'src/demo/**', 'src/device-emulator/**', 'scripts/**', 'bench/**'], rules: { 'no-console': 'off' } },
  // These two are what the bans point to.
  {
    files: ['src/kernel/clock.ts', 'src/kernel/random.ts'],
    rules: { 'no-restricted-properties': 'off', 'no-restricted-globals': 'off', 'no-restricted-imports': 'off' },
  },
  // Tests pull untyped JSON apart; a wrong guess there fails the test.
  {
    files: ['test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-empty-function': 'off',
      '@typescript-eslint/require-await': 'off',
    },
  },
)
