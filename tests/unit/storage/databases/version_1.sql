BEGIN TRANSACTION;
CREATE TABLE conversations (
	id VARCHAR(255) NOT NULL, 
	owner VARCHAR(255) NOT NULL, 
	title TEXT NOT NULL, 
	created DATETIME NOT NULL, 
	updated DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "conversations" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','ann','Red things','2026-11-25 03:30:46.228349','2026-11-25 03:30:46.228349');
INSERT INTO "conversations" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','bob','Hello','2026-11-25 03:30:46.300108','2026-11-25 03:30:46.300108');
CREATE TABLE images (
	digest VARCHAR(64) NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	created DATETIME NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "images" VALUES('57541dd9c14aa3fe9850ad2567ca732eeb322f90c0426c696a2a6dac6db5433b','PNG','2026-11-25 03:30:46.204167',X'89504E470D0A1A0A0000000D49484452000000060000000408020000002266D9140000001249444154789C63FCCF800E983044881402004C3101074E3DB38C0000000049454E44AE426082');
CREATE TABLE messages (
	conversation_id VARCHAR(255) NOT NULL, 
	position INTEGER NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	text TEXT NOT NULL, 
	image_digest VARCHAR(64), 
	image_name TEXT, 
	image_width INTEGER, 
	image_height INTEGER, 
	facts JSON NOT NULL, 
	PRIMARY KEY (conversation_id, position), 
	FOREIGN KEY(conversation_id) REFERENCES conversations (id) ON DELETE CASCADE, 
	FOREIGN KEY(image_digest) REFERENCES images (digest)
);
INSERT INTO "messages" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,'user','What is it?','57541dd9c14aa3fe9850ad2567ca732eeb322f90c0426c696a2a6dac6db5433b','red.png',6,4,'{}');
INSERT INTO "messages" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1,'assistant','A red square.',NULL,NULL,NULL,NULL,'{"sampling": {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "max_tokens": 256, "seed": 7, "stop": []}, "dropped": 0, "reason": "end_of_turn", "error": null, "prompt_tokens": 17, "completion_tokens": 5, "waited_s": 0.0, "ttft_s": 0.42, "tokens_per_second": 31.6, "image": {"digest": "57541dd9c14aa3fe9850ad2567ca732eeb322f90c0426c696a2a6dac6db5433b", "name": "red.png", "width": 6, "height": 4, "rows": 1, "columns": 1}}');
INSERT INTO "messages" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',2,'user','And now?',NULL,NULL,NULL,NULL,'{}');
INSERT INTO "messages" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',3,'assistant','Still red.',NULL,NULL,NULL,NULL,'{}');
INSERT INTO "messages" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',0,'user','Hello',NULL,NULL,NULL,NULL,'{}');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE INDEX conversations_by_owner ON conversations (owner, updated);
CREATE INDEX ix_messages_image_digest ON messages (image_digest);
COMMIT;
