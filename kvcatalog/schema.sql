-- What exports hold, as SQLite takes it; kvcatalog/sql_schema.py reads this file and makes PostgreSQL's form of it.
-- Times are text, YYYY-MM-DDTHH:MM:SS.ffffffZ; a digest is a SHA-256 in lowercase hex.

CREATE TABLE documents (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  artifact_id TEXT NOT NULL,
  source_url TEXT NOT NULL,
  resolver TEXT NOT NULL,
  content_type TEXT,
  bytes INTEGER NOT NULL,
  sha256 TEXT,
  storage_uri TEXT NOT NULL,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  run_id TEXT
);

CREATE UNIQUE INDEX idx_documents_unique ON documents(artifact_id, source_url, resolver);
CREATE INDEX idx_documents_sha ON documents(sha256);
CREATE INDEX idx_documents_ct ON documents(content_type);
CREATE INDEX idx_documents_run ON documents(run_id);

CREATE TABLE variants (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  variant TEXT NOT NULL,
  storage_uri TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  content_type TEXT,
  sha256 TEXT,
  created_at TEXT NOT NULL
);

CREATE UNIQUE INDEX idx_variants_unique ON variants(document_id, variant);

-- A later run that met a document again.
CREATE TABLE sightings (
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  run_id TEXT NOT NULL,
  seen_at TEXT NOT NULL
);

CREATE UNIQUE INDEX idx_sightings_unique ON sightings(document_id, run_id);

-- Other bytes that came under the key of a document, or of one of its variants.
CREATE TABLE conflicts (
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  variant TEXT,
  sha256 TEXT,
  bytes INTEGER NOT NULL,
  storage_uri TEXT NOT NULL,
  run_id TEXT,
  first_seen_at TEXT NOT NULL,
  last_seen_at TEXT NOT NULL,
  count INTEGER NOT NULL
);

CREATE INDEX idx_conflicts_document ON conflicts(document_id);

-- A further place of a blob that a document owns.
CREATE TABLE links (
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  storage_uri TEXT NOT NULL
);

CREATE INDEX idx_links_document ON links(document_id);

-- Folders and buckets below which blobs lie.
CREATE TABLE roots (
  id INTEGER PRIMARY KEY,
  uri TEXT NOT NULL,
  uuid TEXT NOT NULL,
  cas_prefix TEXT NOT NULL
);

-- What was done to what was stored already; it outlives the documents that it speaks of. changes is JSON.
CREATE TABLE journal (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  action TEXT NOT NULL,
  document_id INTEGER,
  variant_id INTEGER,
  command TEXT NOT NULL,
  reason TEXT,
  changes TEXT NOT NULL
);

CREATE INDEX idx_journal_document ON journal(document_id);
